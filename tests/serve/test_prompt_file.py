"""``metaseq generate --file``: each line's results, whatever stops it on the way, and what it refuses."""

import fcntl
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from metaseq_plugin import cli
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.results_file import opened_results
from tests.hostile.doors import write_model

METASEQ = str(Path(sys.executable).with_name("metaseq"))
Capture = pytest.CaptureFixture[str]
LINES: list[dict[str, Any]] = [
    {"prompt": "the cat"},
    {"prompt": "the cat"},
    {"prompt": [5, 6, 7], "seed": 3},
    {"prompt": "a mat", "num_samples": 3, "best_of": 4, "top_scores": 2},
    {"prompt": "", "temperature": 0, "stop": ["a", "t"], "echo": True},
    {"prompt": "the cat", "max_new_tokens": 3, "beam": 2},
    {"prompt": "naïve ☕", "top_p_decay": 0.9, "logit_bias": {"7": 3}},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompt_file") / "model"
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def opt(model: Path) -> OPT:
    return OPT.from_pretrained(model)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def answer(
    model: Path, prompts: Path, results: Optional[Path] = None, seed: int = 1, size: int = 3
) -> int:
    words = ["generate", model, "--file", prompts, "--seed", seed, "--max-new-tokens", 9]
    words += ["--batch-size", size, *(() if results is None else ("--output", results))]
    return cli.main(list(map(str, words)))


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()]


def texts(record: dict[str, Any]) -> list[str]:
    return [completion["text"] for completion in record["completions"]]


def test_each_line_gets_what_python_gives_it(
    model: Path, opt: OPT, prompts: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert answer(model, prompts, tmp_path / "results.jsonl") == 0
    assert capsys.readouterr().out == f"results  {tmp_path}/results.jsonl: 7 prompts\n"
    found = read(tmp_path / "results.jsonl")
    assert [record["line"] for record in found] == list(range(1, 8))
    assert [record["prompt"] for record in found] == [line["prompt"] for line in LINES]
    twice = opt.generate(["the cat"] * 2, 9, seed=1)
    assert [texts(record) for record in found[:2]] == [[c.text for c in one] for one in twice]
    assert twice[0][0].text != twice[1][0].text
    for record, line in zip(found[2:], LINES[2:]):
        (expected,) = opt.generate(
            [line["prompt"]], **{"seed": 1, "max_new_tokens": 9, **line_options(line)}
        )
        assert texts(record) == [completion.text for completion in expected]
        for completion, other in zip(record["completions"], expected):
            assert completion["tokens"] == other.tokens
            assert completion["scores"] == pytest.approx(other.scores, abs=1e-4)
            assert completion["finish_reason"] == other.finish_reason


def line_options(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "prompt"}


def test_without_output_results_are_printed(model: Path, prompts: Path, tmp_path: Path, capsys: Capture) -> None:  # fmt: skip
    assert answer(model, prompts) == 0
    printed = capsys.readouterr().out
    assert answer(model, prompts, tmp_path / "results.jsonl") == 0
    assert printed == (tmp_path / "results.jsonl").read_text("utf-8")


def test_lines_of_other_files_are_prompts_as_they_are(
    model: Path, opt: OPT, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_bytes('{"prompt": "a"}\r\n\n  the cat'.encode())
    assert answer(model, tmp_path / "prompts.txt", tmp_path / "results.jsonl") == 0
    found = read(tmp_path / "results.jsonl")
    assert [record["prompt"] for record in found] == ['{"prompt": "a"}', "", "  the cat"]
    expected = opt.generate(['{"prompt": "a"}', "", "  the cat"], 9, seed=1)
    assert [texts(record) for record in found] == [[c.text for c in one] for one in expected]


@pytest.mark.parametrize("kept", [0, 1, 2.5, 3, 5, 6.9, 7])
def test_what_a_killed_run_left_becomes_the_same_file(
    model: Path, prompts: Path, tmp_path: Path, kept: float, capsys: Capture
) -> None:
    whole, results = tmp_path / "whole.jsonl", tmp_path / "results.jsonl"
    assert answer(model, prompts, whole) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    torn = lines[int(kept)][: int(len(lines[int(kept)]) * (kept % 1))] if kept % 1 else b""
    results.write_bytes(b"".join(lines[: int(kept)]) + torn)
    capsys.readouterr()
    assert answer(model, prompts, results) == 0
    assert results.read_bytes() == whole.read_bytes()
    stayed = 7 if kept == 7 else int(kept) // 3 * 3  # whole chunks
    before = f", {stayed} of them from before" if stayed else ""
    assert capsys.readouterr().out.endswith(f"7 prompts{before}\n")


def test_finished_results_need_no_model(model: Path, prompts: Path, tmp_path: Path, monkeypatch: Any) -> None:  # fmt: skip
    results = tmp_path / "results.jsonl"
    assert answer(model, prompts, results) == 0
    monkeypatch.setattr(OPT, "from_pretrained", lambda *_: pytest.fail("the model was loaded"))
    assert answer(model, prompts, results) == 0


def test_prompts_may_be_added_later(model: Path, prompts: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    assert answer(model, prompts, results) == 0
    with prompts.open("a") as stream:
        stream.write(json.dumps({"prompt": "the cat"}) + "\n\n")
    assert answer(model, prompts, results) == 0
    found = read(results)
    assert [record["line"] for record in found] == list(range(1, 9))
    assert texts(found[7]) not in [texts(found[0]), texts(found[1])]


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_same_file(model: Path, tmp_path: Path) -> None:
    prompts, results = tmp_path / "prompts.txt", tmp_path / "results.jsonl"
    prompts.write_text("".join(f"the cat {number}\n" for number in range(600)))
    assert answer(model, prompts, tmp_path / "whole.jsonl", size=4) == 0
    command = [METASEQ, "generate", model, "--file", prompts, "--seed", "1", "--max-new-tokens", "9",
               "--batch-size", "4", "--output", results]  # fmt: skip
    process = subprocess.Popen(list(map(str, command)))
    end = time.monotonic() + 120
    while not (results.exists() and results.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9
    left = results.read_bytes()
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert 0 < len(left) < len(whole)
    assert whole.startswith(left)
    assert answer(model, prompts, results, size=4) == 0
    assert results.read_bytes() == whole


# name -> (lines of the file of prompts, or nothing where there is none; what the sentence says)
BAD_LINES: dict[str, tuple[Optional[bytes], str]] = {
    "missing": (None, "`--file` must be a file that can be read, but .* is not .No such file"),
    "empty": (b"", "`--file` must hold a prompt, but .* is empty"),
    "blank lines": (b"\n \n", "is empty"),
    "not UTF-8": (b'{"prompt": "a"}\n\xff', "`--file` must be UTF-8 text, but byte 16 of .* is not"),
    "not JSON": (b'{"prompt": "a"}\nthe cat\n', "line 2: A line must be a JSON object, but is 'the cat'"),
    "cut": (b'{"prompt": "a', "line 1: A line must be a JSON object"),
    "no object": (b'"the cat"\n', 'line 1: A line must hold a text or a list of token ids as "prompt"'),
    "no prompt": (b'{"text": "a"}\n', 'line 1: A line must hold a text or a list of token ids as "prompt"'),
    "prompt of a number": (b'{"prompt": 5}\n', "line 1: A line must hold a text"),
    "prompt of fractions": (b'{"prompt": [5.5]}\n', "line 1: A prompt's token ids must be whole numbers"),
    "prompt of nothing": (b'{"prompt": []}\n', "line 1: A prompt must have at least one token"),
    "unknown option": (b'{"prompt": "a", "temprature": 1}\n', "line 1: An option must be one of .* but is temprature"),
    "option of another type": (b'{"prompt": "a", "top_k": "5"}\n', "line 1: `top_k` must be a whole number, but is '5'"),
    "option that is no number": (b'{"prompt": "a", "temperature": NaN}\n', "line 1: `temperature` must be"),
    "option null": (b'{"prompt": "a", "top_p": null}\n', "line 1: `top_p` must be a number, but is None"),
    "option beyond the model": (b'{"prompt": "a", "beam": 999}\n', "line 1: `beam` must be below the vocabulary's 288 tokens"),
    "surrogate": (b'{"prompt": "\\udc80"}\n', "line 1: .* without lone surrogates"),
    "all of them": (b'{"prompt": "a", "top_k": -1}\n{"prompt": "a"}\nx\n', r"line 1: `top_k` .*\n.* line 3: A line must"),
    "prompts too long": (json.dumps({"prompt": [5] * 41}).encode() + b'\n{"prompt": "a"}\n' + json.dumps({"prompt": "a " * 99}).encode(),
        r"line 1: A prompt must have at most 40 tokens.*, but it has .*\n.* line 3: A prompt must have at most 40 tokens"),
    "very many": (b"x\n" * 30, "line 20: .*\nThere are 10 more such mistakes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines_are_named_before_any_work(
    model: Path, tmp_path: Path, name: str, capsys: Capture
) -> None:
    content, sentence = BAD_LINES[name]
    prompts, results = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    if content is not None:
        prompts.write_bytes(content)
    assert answer(model, prompts, results) == 2
    said = capsys.readouterr().err
    assert re.match("metaseq generate: error: ", said)
    assert re.search(sentence, said, re.DOTALL), said
    assert said.endswith(".\n")
    assert not results.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"the cat\n", "has something else in line 1. Set another file"),
        (b'{"text": "a"}\n{"text": "a"}\n', "has something else in line 1"),
        (
            b'{"line": 1, "key": "x"}\n',
            "line 1 was asked otherwise. Set another file, or delete it",
        ),
    ],
)
def test_a_file_of_other_things_is_left_alone(
    model: Path, prompts: Path, tmp_path: Path, content: bytes, sentence: str, capsys: Capture
) -> None:
    results = tmp_path / "results.jsonl"
    results.write_bytes(content)
    assert answer(model, prompts, results) == 2
    assert sentence in capsys.readouterr().err
    assert results.read_bytes() == content


def test_results_of_other_options_or_prompts_are_left_alone(
    model: Path, prompts: Path, tmp_path: Path, capsys: Capture
) -> None:
    results = tmp_path / "results.jsonl"
    assert answer(model, prompts, results) == 0
    written = results.read_bytes()
    assert answer(model, prompts, results, seed=2) == 2
    assert "results.jsonl line 1 was asked otherwise" in capsys.readouterr().err
    lines = prompts.read_text().splitlines()
    for changed, place in ((lines[:4], 5), ([lines[0], *lines[2:]], 2)):
        prompts.write_text("\n".join(changed))
        assert answer(model, prompts, results) == 2
        assert f"results.jsonl line {place} was asked otherwise" in capsys.readouterr().err
    assert results.read_bytes() == written


def test_places_that_cannot_be_written_are_refused(
    model: Path, prompts: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "folder").mkdir()
    for path, reason in ((tmp_path / "folder", "Is a directory"), (tmp_path / "none/r", "No such file or directory")):  # fmt: skip
        assert answer(model, prompts, path) == 2
        assert f"`--output` must be a file that can be written, but {path} is not ({reason})" in capsys.readouterr().err  # fmt: skip
    assert answer(model, prompts, tmp_path / "folder" / ".." / "prompts.jsonl") == 2
    assert "`--output` must be another file than --file, but is the same" in capsys.readouterr().err


def test_without_room_the_reason_is_told_and_the_same_command_goes_on(
    model: Path, prompts: Path, tmp_path: Path, capsys: Capture
) -> None:
    whole, results = tmp_path / "whole.jsonl", tmp_path / "results.jsonl"
    assert answer(model, prompts, whole) == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole.stat().st_size * 3 // 4, hard))
    try:
        assert answer(model, prompts, results) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "results.jsonl is not (File too large). Set another, or make room" in capsys.readouterr().err  # fmt: skip
    assert whole.read_bytes().startswith(results.read_bytes())
    assert answer(model, prompts, results) == 0
    assert results.read_bytes() == whole.read_bytes()


def test_another_process_that_writes_is_told(tmp_path: Path, run_python: Any) -> None:
    path = tmp_path / "results.jsonl"
    with path.open("wb") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        code = f"""
from pathlib import Path
from metaseq_plugin.serve.results_file import opened_results
with opened_results(Path({str(path)!r})):
    pass
"""
        done = run_python(code)
    assert "UserError: `--output` must be written by one process, but another writes" in done.stderr
    assert path.exists()


def test_a_new_file_without_results_is_gone_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stopped"), opened_results(tmp_path / "results.jsonl"):
        raise UserError("stopped.")
    assert list(tmp_path.iterdir()) == []
