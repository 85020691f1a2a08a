"""Train a small OPT on real text with stock fairseq commands, and write with it.

    bash scripts/quickstart.sh [--text FILE_OR_DIR] [--arch opt_8m] [--max-update N] [--run-dir DIR]

The steps, each a command that is printed and kept in RUN_DIR/commands.txt:
(1) the corpus: your text, or the source files of this interpreter's standard library, one document
    a module, which is real English and Python and on every machine;
(2) ``metaseq prepare``: trains a byte-level BPE and binarises;
(3) ``fairseq-train`` for one update with learning rate 0: the untrained model's perplexity;
(4) ``fairseq-train``: the run itself, at most TRAIN_HOURS;
(5) ``fairseq-validate`` and ``fairseq-interactive`` with the best checkpoint;
(6) ``metaseq report``: what the run did and used, by its own ledger, and a page with its plots;
(7) a summary, which ends with how to write with the model and how to serve it.

RUN_DIR also keeps every command's full output. A second run with the same options finds the data and
the checkpoints, and trains on only if --max-update grew.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Iterator, List, NamedTuple, NoReturn, Optional

ROOT = Path(__file__).resolve().parent.parent
TRAIN_HOURS = 0.064  # 230 s: with start-up and the last validation, training stays under 4 minutes
TOKENS_PER_SAMPLE = 256
BATCH_SIZE = 8
MAX_UPDATE = 1500
VOCAB_SIZE = 4096
PROMPTS = ("import os", "def __init__(self,", "class Test", "Return the")
NEW_TOKENS = 60


def fail(message: str) -> NoReturn:
    print(f"quickstart: error: {message}", file=sys.stderr)
    raise SystemExit(2)


class Run(NamedTuple):
    """The run folder and where things lie in it."""

    folder: Path

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus.jsonl"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def log_dir(self) -> Path:
        return self.folder / "logs"

    @property
    def commands(self) -> Path:
        return self.folder / "commands.txt"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint_best.pt"

    def log(self, step: str) -> Path:
        return self.log_dir / f"{step}.log"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="quickstart.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE_OR_DIR",
        help=".txt, .jsonl, .jsonl.gz or .jsonl.zst, or a folder of them\n"
        "(default: the source files of this interpreter's standard library)",
    )
    parser.add_argument("--arch", default="opt_8m", help="model size (default: %(default)s)")
    parser.add_argument(
        "--max-update", type=int, default=MAX_UPDATE, help="updates (default: %(default)s)"
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=ROOT / "runs" / "quickstart",
        help="folder for all that is made (default: runs/quickstart in the checkout)",
    )
    args = parser.parse_args()
    if args.max_update < 1:
        fail(f"`--max-update` must be at least 1, but is {args.max_update}. Set one that is.")
    if args.text is not None and not args.text.exists():
        fail(
            f"`--text` must name a file or folder, but {args.text} does not exist. Set one that does."
        )
    args.run_dir = from_checkout(args.run_dir)
    args.text = None if args.text is None else from_checkout(args.text)
    os.chdir(ROOT)
    return args


def from_checkout(path: Path) -> Path:
    """``path``, which is seen from where the user stands, as it is seen from the checkout."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def claim(run: Run, args: argparse.Namespace) -> None:
    """Make the run folder, and refuse one that holds a run of another text or arch."""
    options = {"text": str(args.text.resolve()) if args.text else None, "arch": args.arch}
    recorded = run.folder / "quickstart.json"
    try:
        run.log_dir.mkdir(parents=True, exist_ok=True)
        if not recorded.exists():
            recorded.write_text(json.dumps(options) + "\n")
    except OSError as error:
        fail(
            f"`--run-dir` must be a folder that can be written, but {run.folder} is not "
            f"({error.strerror}). Set another."
        )
    if json.loads(recorded.read_text()) != options:
        fail(
            f"`--run-dir` must be new or hold a run of the same --text and --arch, but {run.folder} "
            f"holds one of {recorded.read_text().strip()}. Set another, or delete it."
        )
    run.commands.write_text("")


def standard_library_documents() -> Iterator[str]:
    """The sources of the running interpreter's standard library, its tests left out."""
    home = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}
    for path in sorted(home.rglob("*.py")):
        if left_out.isdisjoint(path.relative_to(home).parts):
            text = path.read_bytes().decode("utf-8", errors="ignore").strip()
            if text:
                yield text


def write_corpus(run: Run) -> Path:
    """The default corpus as JSONL; made once."""
    if not run.corpus.exists():
        unfinished = run.corpus.with_suffix(".tmp")
        with unfinished.open("w", encoding="utf-8") as stream:
            for text in standard_library_documents():
                stream.write(json.dumps({"text": text}) + "\n")
        unfinished.rename(run.corpus)
    return run.corpus


def as_typed(command: List[str]) -> str:
    return shlex.join(Path(command[0]).name if i == 0 else word for i, word in enumerate(command))


def start(run: Run, title: str, command: List[str], pipe: str = "") -> None:
    """Show a command, and keep it so that it can be typed from the checkout."""
    typed = f"{pipe} | {as_typed(command)}" if pipe else as_typed(command)
    print(f"\n== {title}\n{typed}", flush=True)
    with run.commands.open("a") as stream:
        stream.write(f"# {title}\n{typed}\n\n")


def call(run: Run, step: str, title: str, command: List[str], stdin: Optional[str] = None) -> str:
    """Run one command from the checkout, its progress on the terminal; returns what it printed."""
    pipe = "" if stdin is None else f"printf {shlex.quote(stdin)}"
    start(run, title, command, pipe.replace("\n", "\\n"))
    executable = str(Path(sys.executable).parent / command[0])
    with run.log(step).open("w") as log:
        process = subprocess.Popen(
            [executable, *command[1:]],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log if step != "prepare" else None,
            text=True,
        )
        if stdin is not None and process.stdin is not None:
            process.stdin.write(stdin)
            process.stdin.close()
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            log.write(line)
            log.flush()
            lines.append(line)
            show_progress(line)
        if process.wait() != 0:
            last = run.log(step).read_text().strip().splitlines()[-1:]
            print("".join(last), file=sys.stderr)
            print(
                f"quickstart: error: {title} failed; all it said: {run.log(step)}", file=sys.stderr
            )
            raise SystemExit(process.returncode)
    return "".join(lines)


def logged(output: str, tag: str) -> List[dict]:
    """The values of fairseq's JSON log lines with ``tag`` (train_inner, train or valid)."""
    marker = f"| INFO | {tag} | "
    return [
        json.loads(line.split(marker, 1)[1])
        for line in output.splitlines()
        if f"{marker}{{" in line
    ]


def show_progress(line: str) -> None:
    for values in logged(line, "train_inner"):
        print(
            f"update {values['num_updates']:>5}  loss {float(values['loss']):6.3f} bits  "
            f"ppl {float(values['ppl']):9.2f}  {float(values['wps']):8.0f} tokens/s  "
            f"{float(values['wall']):4.0f} s",
            flush=True,
        )
    for values in logged(line, "valid"):
        print(f"valid         loss {float(values['valid_loss']):6.3f} bits  "
              f"ppl {float(values['valid_ppl']):9.2f}", flush=True)  # fmt: skip


def task_options() -> List[str]:
    return ["--user-dir", "metaseq_plugin", "--task", "opt_language_modeling"]


def train_command(run: Run, args: argparse.Namespace, save_dir: Path, *options: str) -> List[str]:
    return [
        "fairseq-train", str(run.data), *task_options(), "--arch", args.arch,
        "--tokens-per-sample", str(TOKENS_PER_SAMPLE), "--batch-size", str(BATCH_SIZE),
        "--dropout", "0", "--attention-dropout", "0",
        "--criterion", "chunked_cross_entropy", "--optimizer", "adamw", "--clip-norm", "1.0",
        "--log-format", "json", "--save-dir", str(save_dir), *options,
    ]  # fmt: skip


def train(run: Run, args: argparse.Namespace) -> tuple[float, dict]:
    """Perplexity of the untrained model, and what the run logged last."""
    untrained = call(
        run, "untrained", "Valid perplexity before training (one update with learning rate 0)",
        train_command(run, args, run.folder / "untrained",
                      "--lr", "0", "--max-update", "1", "--no-save"),
    )  # fmt: skip
    call(
        run, "train", "Train",
        train_command(
            run, args, run.folder, "--lr", "0.002", "--lr-scheduler", "polynomial_decay",
            "--warmup-updates", "100", "--total-num-update", str(args.max_update),
            "--max-update", str(args.max_update), "--stop-time-hours", str(TRAIN_HOURS),
            "--log-interval", "50", "--keep-last-epochs", "1",
        ),
    )  # fmt: skip
    # A second run has nothing to train; what the first one logged is kept beside the checkpoints.
    history = run.folder / "train.jsonl"
    epochs = logged(run.log("train").read_text(), "train")
    with history.open("a") as stream:
        stream.writelines(json.dumps(values) + "\n" for values in epochs)
    last = json.loads(history.read_text().splitlines()[-1])
    return float(logged(untrained, "valid")[-1]["valid_ppl"]), last


def validate(run: Run) -> float:
    """Perplexity of the best checkpoint."""
    output = call(
        run, "validate", "Valid perplexity after training",
        ["fairseq-validate", str(run.data), *task_options(), "--path", str(run.checkpoint),
         "--batch-size", str(BATCH_SIZE), "--log-format", "json"],
    )  # fmt: skip
    return float(logged(output, "valid")[-1]["valid_ppl"])


def write_text(run: Run) -> List[str]:
    """One continuation of every prompt."""
    output = call(
        run, "write", "Write",
        ["fairseq-interactive", str(run.data), *task_options(), "--path", str(run.checkpoint),
         "--beam", "1", "--nbest", "1", "--sampling", "--sampling-topp", "0.9",
         "--temperature", "0.7", "--max-len-b", str(NEW_TOKENS)],
        stdin="".join(f"{prompt}\n" for prompt in PROMPTS),
    )  # fmt: skip
    # A continuation may hold line breaks: it reaches to the line that fairseq prints next.
    texts, lines = [], iter(output.splitlines())
    for line in lines:
        if line.startswith("D-"):
            text = [line.split("\t", 2)[2]]
            for follow in lines:
                if follow.startswith("P-"):
                    break
                text.append(follow)
            texts.append("\n".join(text))
    return texts


def main() -> None:
    args = parse_args()
    started = time.monotonic()
    run = Run(args.run_dir)
    claim(run, args)
    source = args.text or write_corpus(run)
    # A text of the user's may be too small for a fixed size; `prepare` then chooses.
    vocabulary = [] if args.text else ["--vocab-size", str(VOCAB_SIZE)]
    call(
        run, "prepare", "Tokenise and binarise",
        ["metaseq", "prepare", str(source), "--destdir", str(run.data),
         *vocabulary, "--valid-fraction", "0.02"],
    )  # fmt: skip
    before, trained = train(run, args)
    after = validate(run)
    texts = write_text(run)
    report = call(
        run, "report", "What the run did and used",
        ["metaseq", "report", str(run.folder), "--html", str(run.report)],
    )  # fmt: skip
    print(f"\n{report}", end="")

    updates = int(trained["train_num_updates"])
    print("\n== Sample text")
    for text in texts:
        print("-" * 60)
        print(text)
    print("-" * 60)
    print("\n== Summary")
    corpus = "your text" if args.text else "the sources of Python's standard library (no tests)"
    for name, value in (
        ("text", f"{source} ({corpus})"),
        ("arch", args.arch),
        ("updates", f"{updates:,}"),
        ("tokens trained on", f"{round(float(trained['train_wpb']) * updates):,}"),
        ("speed", f"{float(trained['train_wps']):,.0f} tokens/s"),
        (
            "valid ppl",
            f"{before:,.2f} untrained, {after:,.2f} trained ({before / after:.0f} times less)",
        ),
        ("checkpoint", run.checkpoint),
        ("commands", run.commands),
        ("report", f"{run.report} (open it in a browser)"),
        ("this took", f"{time.monotonic() - started:.0f} s"),
        ("go on", f"source {from_checkout(Path(sys.prefix))}/bin/activate"),
        ("write", f'metaseq generate {run.folder} "{PROMPTS[0]}"'),
        ("serve", f"metaseq serve {run.folder}"),
    ):
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
