"""A tiny model learns fifty lines by heart, through the commands a user types."""

import json
import linecache
import re
from pathlib import Path

import pytest

from metaseq_plugin import cli
from tests.fairseq_runs import run_fairseq, train

NUM_LINES = 50


def fifty_lines() -> list[str]:
    """Real lines, none twice: of the standard library's calendar module."""
    import calendar

    lines = [line.rstrip("\n") for line in linecache.getlines(calendar.__file__)]
    return list(dict.fromkeys(line for line in lines if len(line.split()) > 2))[:NUM_LINES]


@pytest.mark.slow
def test_fifty_lines_by_heart(tmp_path: Path) -> None:
    lines = fifty_lines()
    # Two documents, of which `prepare` holds one out; which one is its choice.
    texts = ["\n".join(lines), "\n".join(reversed(lines))]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    data = tmp_path / "data"
    arguments = ["prepare", str(corpus), "--destdir", str(data), "--valid-fraction", "0.5"]
    assert cli.main(arguments) == 0

    shape = (
        "--decoder-embed-dim", 64, "--decoder-attention-heads", 4, "--tokens-per-sample", 2048,
        "--dropout", 0, "--attention-dropout", 0, "--init-std", 0.02,
    )  # fmt: skip
    run_dir = tmp_path / "run"
    ended = train(
        data, run_dir, *shape, "--lr", 0.005, "--lr-scheduler", "polynomial_decay",
        "--warmup-updates", 20, "--total-num-update", 250, "--max-update", 250,
        "--weight-decay", 0, "--disable-validation", "--save-interval", 1000,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    common = (
        data, "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu",
        "--path", run_dir / "checkpoint_last.pt",
    )  # fmt: skip
    ended = run_fairseq(
        "validate", *common, "--valid-subset", "train", "--batch-size", 1, "--log-format", "json",
        log_dir=tmp_path,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    (perplexity,) = re.findall(r'"train_ppl": "([0-9.]+)"', ended.output)
    assert float(perplexity) < 1.1

    ended = run_fairseq(
        "interactive", *common, "--beam", 1, "--max-len-b", 2000,
        log_dir=tmp_path, stdin=f"{lines[0]}\n{lines[-1]}\n",
    )  # fmt: skip
    assert ended.status == 0, ended.output
    written = re.findall(r"^D-\d\t\S+\t(.*?)\nP-\d\t", ended.output, re.DOTALL | re.MULTILINE)
    assert texts[0] in written or texts[1] in written, written
