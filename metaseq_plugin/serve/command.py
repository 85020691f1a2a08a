"""Serve a model over HTTP, as OpenAI's completions API and as metaseq's service.

    metaseq serve --path runs/quickstart
    curl http://127.0.0.1:6010/v1/completions -H 'Content-Type: application/json' \\
      -d '{"prompt": "def main(", "max_tokens": 20}'

PATH is whatever `metaseq convert` reads: a run folder, a checkpoint, a Hugging Face folder, or metaseq's files. A page
to try the model with is at http://127.0.0.1:6010/. Without --host only this machine reaches it; with one, set
--api-key-file too. SIGTERM and Ctrl-C let the requests under way finish.
"""

import argparse
import json
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
    parser.add_argument("--path", type=Path, help="the model: what `metaseq convert` reads")
    parser.add_argument("--data", type=Path, help="folder with the tokenizer's files")
    parser.add_argument("--dtype", choices=tuple(DTYPES),
        help="default: float32 on CPUs, elsewhere as saved")  # fmt: skip
    parser.add_argument("--device", help="default: the accelerator, else the CPU")
    parser.add_argument("--trust-pickle", action="store_true",
        help="let metaseq's files hold classes; such a file can run any program")  # fmt: skip
    parser.add_argument("--host", default=DEFAULT_HOST, help="default: %(default)s")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT,
        help="0: any that is free; default: %(default)s")  # fmt: skip
    parser.add_argument("--model-name", help="what clients call the model; default: from PATH")
    parser.add_argument("--api-key-file", type=Path,
        help="a file of keys, one a line; each request must bring one of them")  # fmt: skip
    parser.add_argument("--max-batch-tokens", type=int, metavar="N",
        default=DEFAULTS.max_batch_tokens,
        help="most tokens at once, prompts and new ones; default: %(default)s")  # fmt: skip
    parser.add_argument("--max-waiting", type=int, metavar="N", default=DEFAULTS.max_waiting,
        help="most prompts that wait; further ones get 429; default: %(default)s")  # fmt: skip
    parser.add_argument("--timeout", type=float, metavar="S", default=DEFAULTS.timeout,
        help="most seconds for a request; default: %(default)s")  # fmt: skip
    parser.add_argument("--drain-timeout", type=float, metavar="S", default=DEFAULTS.drain_timeout,
        help="most seconds to finish when told to stop; default: %(default)s")  # fmt: skip
    parser.add_argument("--openapi", action="store_true",
        help="print the description of the API as JSON, and do nothing else")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    check_packages()
    from metaseq_plugin.serve.app import build_app

    if args.openapi:
        print(json.dumps(build_app(None, None).openapi(), indent=2))  # noqa: T201
        return
    start(args, options_of(args))


def start(args: argparse.Namespace, options: Options) -> None:
    from metaseq_plugin.serve.app import build
    from metaseq_plugin.serve.loading import Source, load, report
    from metaseq_plugin.serve.running import is_exposed, listen, serve, url_of
    from metaseq_plugin.serve.service import Service

    source = Source(args.path, args.data, args.device, args.dtype, args.trust_pickle)
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
