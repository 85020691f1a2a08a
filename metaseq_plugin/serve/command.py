"""Serve a model over HTTP: OpenAI's completions, and a page.

    metaseq serve runs/quickstart
    curl http://127.0.0.1:6010/v1/completions -H 'Content-Type: application/json' \\
      -d '{"prompt": "def main(", "max_tokens": 20}'

PATH is a run folder, a checkpoint, a Hugging Face folder or metaseq's files. A
page to try the model is at http://127.0.0.1:6010/. Only this machine reaches
it: where --host says otherwise, set --api-key-file too. SIGTERM and Ctrl-C let
the requests under way finish. docs/serve.md says more, docs/api.md all fields.
"""

import argparse
import json
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.tensors import DTYPES
from metaseq_plugin.serve.options import Options

DEFAULTS = Options()
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 6010  # metaseq's port
PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "metaseq serve [options] PATH"
    parser.add_argument("model", nargs="?", type=Path, metavar="PATH",
        help="the model: what `metaseq convert` reads")  # fmt: skip
    parser.add_argument("--path", type=Path, help="the same")
    parser.add_argument(
        "--data", type=Path, help="the tokenizer's folder; default: PATH's, or its data's"
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES),
        metavar="TYPE",
        help=f"{', '.join(DTYPES)}; default: float32 on CPUs")  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU if any")
    parser.add_argument("--trust-pickle", action="store_true",
        help="read files that can run any program on this machine")  # fmt: skip
    parser.add_argument("--model-parallel-size", type=int, default=1, metavar="N",
        help="devices over which each matrix is cut (%(default)s)")  # fmt: skip
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT,
        help="0: any that is free (%(default)s)")  # fmt: skip
    parser.add_argument(
        "--model-name", metavar="NAME", help="what clients call it; default: its folder's"
    )
    parser.add_argument("--api-key-file", type=Path, metavar="FILE",
        help="keys, one a line; each request must bring one")  # fmt: skip
    parser.add_argument("--max-batch-tokens", type=int, metavar="N",
        default=DEFAULTS.max_batch_tokens,
        help="most tokens at once, which bounds memory (%(default)s)")  # fmt: skip
    parser.add_argument("--max-waiting", type=int, metavar="N", default=DEFAULTS.max_waiting,
        help="most prompts that wait; others get 429 (%(default)s)")  # fmt: skip
    parser.add_argument("--timeout", type=float, metavar="S", default=DEFAULTS.timeout,
        help="most seconds for a request (%(default).0f)")  # fmt: skip
    parser.add_argument("--drain-timeout", type=float, metavar="S", default=DEFAULTS.drain_timeout,
        help="most seconds to finish when stopped (%(default).0f)")  # fmt: skip
    parser.add_argument("--openapi", action="store_true",
        help="print the API as JSON, and do nothing else")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    check_packages()
    from metaseq_plugin.serve.app import build_app

    if args.openapi:
        print(json.dumps(build_app(None, None).openapi(), indent=2))  # noqa: T201
        return
    args.path = args.path or args.model
    start(args, options_of(args))


def start(args: argparse.Namespace, options: Options) -> None:
    from metaseq_plugin.launch.decoding_ranks import own_rank
    from metaseq_plugin.serve.app import build
    from metaseq_plugin.serve.loading import Source, load, report
    from metaseq_plugin.serve.running import is_exposed, listen, serve, url_of
    from metaseq_plugin.serve.service import Service

    source = Source(
        args.path, args.data, args.device, args.dtype, args.trust_pickle, args.model_parallel_size
    )
    if own_rank() > 0:  # of torchrun's, which serves rank 0 until that lets it go
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        load(source, options)
    listening = listen(args.host, args.port)
    service = Service(options)
    keys = "a key is asked for" if options.keys else "no key is asked for"
    is_open = is_exposed(listening)
    if is_open and not options.keys:
        warn("whoever reaches this machine may use the model: set --api-key-file")

    def load_and_open() -> None:
        opt, engine = load(source, options)
        lines = [*report(opt, source, options), f"ready: {url_of(listening)}, {keys}"]
        service.open(opt, engine)
        print("\n".join(lines), flush=True)  # noqa: T201

    print(f"loading {args.path}: {url_of(listening)}health says when it is done", flush=True)  # noqa: T201
    only_at = None if is_open or options.keys else args.host
    serve(build(service, only_at), service, listening, load_and_open)


def options_of(args: argparse.Namespace) -> Options:
    """The options, checked.

    Raises:
        UserError: one of them cannot be.
    """
    from metaseq_plugin.serve.keys import read_keys

    if args.path is None:
        raise UserError("`--path` must name the model, but is missing. Set a run folder, say.")
    rules = [
        ("--port", args.port, 0 <= args.port < 2**16, "be from 0 to 65535", "Set 6010."),
        ("--model-parallel-size", args.model_parallel_size, args.model_parallel_size >= 1,
         "be at least 1", "Set 1 to not cut."),
        ("--max-batch-tokens", args.max_batch_tokens, args.max_batch_tokens >= 1,
         "be at least 1", f"Set {DEFAULTS.max_batch_tokens}."),
        ("--max-waiting", args.max_waiting, args.max_waiting >= 1,
         "be at least 1", f"Set {DEFAULTS.max_waiting}."),
        ("--timeout", args.timeout, args.timeout > 0, "be above 0 seconds", "Set 600."),
        ("--drain-timeout", args.drain_timeout, args.drain_timeout >= 0,
         "be 0 seconds or more", "Set 30."),
    ]  # fmt: skip
    problems = [
        f"`{option}` must {rule}, but is {value}. {remedy}"
        for option, value, holds, rule, remedy in rules
        if not holds
    ]
    if problems:
        raise UserError(*problems)
    return Options(
        args.model_name or name_of(args.path),
        read_keys(args.api_key_file) if args.api_key_file else (),
        args.max_batch_tokens, args.max_waiting, args.timeout, args.drain_timeout,
    )  # fmt: skip


def name_of(path: Path) -> str:
    """The name of a model's folder."""
    whole = path.resolve()
    return (whole.parent if whole.is_file() else whole).name or "opt"


def check_packages() -> None:
    """Raise UserError unless what the extra ``serve`` installs is there."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"`metaseq serve` must find {', '.join(PACKAGES)}, but {missing[0]} is not installed. "
            "Install them: pip install 'metaseq-plugin[serve]'."
        )


def warn(sentence: str) -> None:
    print(f"metaseq serve: warning: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
