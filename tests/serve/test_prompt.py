"""``metaseq generate``: a prompt from wherever it comes, text as it comes, and one sentence for a mistake."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

from metaseq_plugin import cli
from metaseq_plugin.generation.completion import Piece
from metaseq_plugin.generation.options import MEANINGS
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve import terminal
from metaseq_plugin.serve.prompt import LINE_PROMPT
from tests.hostile.doors import write_model

SEED = ("--seed", "1", "--max-new-tokens", "12")
OPTIONS: dict[str, Any] = {"seed": 1, "max_new_tokens": 12}
ESCAPE = "\x1b"
METASEQ = str(Path(sys.executable).with_name("metaseq"))
# Runs the command with a standard output that tells each flush.
PIPE_CODE = """
import io, sys
from metaseq_plugin.cli import main

class Told(io.TextIOWrapper):
    def flush(self):
        super().flush()
        print("flush", file=sys.stderr)

sys.stdout = Told(sys.stdout.buffer, "utf-8")
sys.exit(main({command}))
"""
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompt") / "model"
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def opt(model: Path) -> OPT:
    return OPT.from_pretrained(model)


def generate(*arguments: Any) -> int:
    return cli.main(["generate", *map(str, arguments)])


def give_input(monkeypatch: Any, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), "utf-8"))


@pytest.mark.parametrize(
    "words",
    [
        ("{}", "the cat"),
        ("--path", "{}", "--prompt", "the cat"),
        ("--path", "{}", "the cat"),
        ("{}", "--top-k", "0", "the cat"),
        ("{}", "--prompt=the cat", "--no-echo"),
    ],
)
def test_the_text_is_that_of_python(
    model: Path, opt: OPT, words: tuple[str, ...], capsys: Capture
) -> None:
    ((expected,),) = opt.generate(["the cat"], **OPTIONS)
    assert generate(*(word.format(model) for word in words), *SEED) == 0
    assert capsys.readouterr().out == f"{expected.text}\n"


@pytest.mark.parametrize(
    ("raw", "prompt"),
    [
        (b"the cat\n", "the cat"),
        (b"the\n\ncat\r\n", "the\n\ncat"),
        (b"", ""),
        ("☕".encode(), "☕"),
    ],
)
def test_the_prompt_may_be_the_standard_input(
    model: Path, opt: OPT, raw: bytes, prompt: str, monkeypatch: Any, capsys: Capture
) -> None:
    ((expected,),) = opt.generate([prompt], echo=True, **OPTIONS)
    give_input(monkeypatch, raw)
    assert generate(model, "--echo", *SEED) == 0
    assert capsys.readouterr().out == f"{expected.text}\n"


def test_options_reach_the_model(model: Path, opt: OPT, capsys: Capture) -> None:
    options = {
        "--min-new-tokens": 2, "--temperature": 0.8, "--top-k": 50, "--top-p": 0.95, "--top-p-decay": 0.9,
        "--top-p-floor": 0.2, "--presence-penalty": 0.3, "--frequency-penalty": 0.2,
        "--prompt-presence-penalty": 0.1, "--prompt-frequency-penalty": 0.1, "--num-samples": 2,
        "--best-of": 4, "--top-scores": 2, "--stop": "mat", "--logit-bias": "7=2.5",
    }  # fmt: skip
    words = [str(word) for pair in options.items() for word in pair]
    assert generate(model, "a cat", "--json", *SEED, *words) == 0
    named: dict[str, Any] = {
        name.strip("-").replace("-", "_"): value for name, value in options.items()
    }
    named.update(stop=["mat"], logit_bias={7: 2.5})
    (expected,) = opt.generate(["a cat"], **OPTIONS, **named)
    assert capsys.readouterr().out == json.dumps(
        {"prompt": "a cat", "completions": [completion._asdict() for completion in expected]},
        ensure_ascii=False,
    ) + "\n"  # fmt: skip


def test_several_samples_are_told_apart(model: Path, opt: OPT, capsys: Capture) -> None:
    ((one, other),) = opt.generate(["a"], num_samples=2, **OPTIONS)
    assert generate(model, "a", "--num-samples", 2, *SEED) == 0
    assert capsys.readouterr().out == f"== 1 of 2\n{one.text}\n== 2 of 2\n{other.text}\n"


def test_the_help_has_every_option_with_its_meaning_and_default(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        generate("--help")
    printed = " ".join(capsys.readouterr().out.split())
    for name in MEANINGS.keys() - {"with_scores"}:
        assert re.search(f" --{name.replace('_', '-')}[ ,]", printed), name
    assert f"{MEANINGS['top_p']} (1.0)" in printed
    assert f"{MEANINGS['max_new_tokens']} (64)" in printed


def test_a_terminal_is_not_steered() -> None:
    assert (
        terminal.escaped("a\x1b[2J\r\x9b\x00é☕\u3000\n\tb")
        == "a\\x1b[2J\\r\\x9b\\x00é☕\u3000\n\tb"
    )


def type_lines(monkeypatch: Any, *typed: Any) -> None:
    """At a terminal: lines, and exceptions for keys; then Ctrl-D."""
    lines = iter([*typed, EOFError()])

    def typed_next(sign: str) -> str:
        line = next(lines)
        if isinstance(line, BaseException):
            raise line
        return str(line)

    give_input(monkeypatch, b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", typed_next)


def test_a_prompt_line_answers_each_line_and_outlives_mistakes(
    model: Path, opt: OPT, monkeypatch: Any, capsys: Capture
) -> None:
    type_lines(monkeypatch, "the cat", "a " * 99, KeyboardInterrupt(), "", "a mat")
    assert generate(model, *SEED) == 0
    printed = capsys.readouterr()
    texts = [opt.generate([prompt], **OPTIONS)[0][0].text for prompt in ("the cat", "", "a mat")]
    assert printed.out == f"{texts[0]}\n\n{texts[1]}\n{texts[2]}\n\n"
    assert "error: A prompt must have at most 40 tokens" in printed.err


def test_ctrl_c_ends_an_answer_and_not_the_prompt_line(
    model: Path, opt: OPT, monkeypatch: Any, capsys: Capture
) -> None:
    whole = OPT.stream
    closed = []

    def stream(self: OPT, prompt: str, **options: Any) -> Iterator[Piece]:
        try:
            for piece in whole(self, prompt, **options):
                yield piece
                if prompt == "a mat":
                    raise KeyboardInterrupt
        finally:
            closed.append(prompt)

    monkeypatch.setattr(OPT, "stream", stream)
    type_lines(monkeypatch, "a mat", "the cat")
    assert generate(model, *SEED) == 0
    first = next(whole(opt, "a mat", **OPTIONS)).text
    after = opt.generate(["the cat"], **OPTIONS)[0][0].text
    assert capsys.readouterr().out == f"{first}\n{after}\n\n"
    assert closed == ["a mat", "the cat"]


def test_ctrl_c_ends_the_command_elsewhere(model: Path, monkeypatch: Any) -> None:
    def stream(self: OPT, prompt: str, **options: Any) -> Iterator[Piece]:
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(OPT, "stream", stream)
    assert generate(model, "a") == cli.EXIT_INTERRUPTED


@pytest.mark.slow
def test_at_a_real_terminal(model: Path, opt: OPT) -> None:
    """Line editing is readline's, the text is escaped, Ctrl-D ends."""
    ours, theirs = pty.openpty()
    command = [METASEQ, "generate", str(model), *SEED, "--logit-bias", f"{opt.encode(ESCAPE)[0]}=9"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        read_until(ours, LINE_PROMPT)
        os.write(ours, b"the cat\n")
        answer = read_until(ours, LINE_PROMPT)
        assert "\\x1b" in answer
        os.write(ours, b"\x04")
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    seen = b""
    while text.encode() not in seen:
        seen += os.read(terminal, 4096)
    return seen.decode("utf-8", "replace")


@pytest.mark.slow
def test_pieces_come_through_a_pipe_one_by_one(model: Path, opt: OPT) -> None:
    """Each is flushed: with a reader that leaves after the first bytes, the command ends quietly."""
    ((expected,),) = opt.generate(["the cat"], **OPTIONS)
    command = [METASEQ, "generate", str(model), "the cat", *SEED]
    whole = subprocess.run(command, capture_output=True, timeout=120)
    assert whole.stdout.decode() == f"{expected.text}\n"
    code = PIPE_CODE.format(command=command[1:])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert len(done.stderr.splitlines()) > 3  # one line a write
    left = f"{METASEQ} generate {model} a {' '.join(SEED)}; echo $? >&2"
    early = subprocess.run(["bash", "-c", f"({left}) | true"], capture_output=True, timeout=120)
    assert early.stderr == b"141\n"


# name -> (words behind `metaseq generate`, MODEL and SCRATCH filled in; what the sentence says)
REFUSED = {
    "no model": ((), "`--path` must name a model, but is not set"),
    "model missing": (("SCRATCH/none", "a"), "The model must exist, but .*none does not"),
    "folder without model": (("SCRATCH", "a"), "must be a Hugging Face folder"),
    "words too many": (("MODEL", "the", "cat"), "there is also 'cat'. Put the prompt into quotes"),
    "both ways and one more": (("MODEL", "a", "--path", "MODEL", "--prompt", "b"), "there is also 'MODEL'"),
    "two values": (("MODEL", "a", "--top-p", "2", "--beam", "0"), r"`--top-p` must be between 0 and 1, but is 2.0.*\n`--beam` must be at least 1"),
    "no new tokens": (("MODEL", "a", "--max-new-tokens", "0"), "`--max-new-tokens` must be at least 1, but is 0"),
    "best of fewer": (("MODEL", "a", "--num-samples", "3", "--best-of", "2"), r"`--best-of` must be at least `--num-samples` \(3\)"),
    "stop of nothing": (("MODEL", "a", "--stop", ""), "`--stop` must be left out, or hold non-empty texts"),
    "stop and search": (("MODEL", "a", "--stop", "x", "--beam", "2"), "`--stop` must .*`--beam` is above 1"),
    "top scores as text": (("MODEL", "a", "--top-scores", "2"), "`--top-scores` must come with --json or --file, but is 2"),
    "top scores too many": (("MODEL", "a", "--json", "--top-scores", "101"), "`--top-scores` must be between 0 and 100"),
    "device unknown": (("MODEL", "a", "--device", "gpu"), "`--device` must be cpu, cuda or cuda:N, but is gpu"),
    "device absent": (("MODEL", "a", "--device", "cuda:99"), "`--device` must be one of this machine's"),
    "dtype unknown": (("MODEL", "a", "--dtype", "int3"), "`dtype` must be one of"),
    "data missing": (("MODEL", "a", "--data", "SCRATCH/none"), "`data` must be a folder"),
    "prompt too long": (("MODEL", "a " * 99), "must have at most 40 tokens"),
    "prompt not Unicode": (("MODEL", "a\udc80"), "without lone surrogates"),
    "bias beyond the vocabulary": (("MODEL", "a", "--logit-bias", "999=1"), "`logit_bias` must hold token ids"),
    "batch of none": (("MODEL", "--file", "SCRATCH/p", "--batch-size", "0"), "`--batch-size` must be at least 1, but is 0"),
    "file and prompt": (("MODEL", "a", "--file", "SCRATCH/p"), "`--file` must come without a prompt"),
    "output alone": (("MODEL", "a", "--output", "SCRATCH/r"), "`--output` must come with --file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(model: Path, tmp_path: Path, name: str, capsys: Capture) -> None:
    words, sentence = REFUSED[name]
    places = {"MODEL": str(model), "SCRATCH": str(tmp_path)}
    filled = [re.sub("MODEL|SCRATCH", lambda found: places[found[0]], word) for word in words]
    assert generate(*filled) == 2
    printed = capsys.readouterr()
    assert re.match("metaseq generate: error: ", printed.err)
    assert re.search(sentence.replace("MODEL", str(model)), printed.err, re.DOTALL), printed.err
    assert printed.err.endswith(".\n")
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_input_that_is_no_text_is_refused(model: Path, monkeypatch: Any, capsys: Capture) -> None:
    give_input(monkeypatch, b"ab\xff")
    assert generate(model) == 2
    assert "The standard input must be UTF-8 text, but byte 2 is not." in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--seed", "x"), ("--logit-bias", "5"), ("--temprature", "1")])
def test_what_cannot_be_parsed_is_refused(
    model: Path, words: tuple[str, ...], capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as end:
        generate(model, "a", *words)
    assert end.value.code == 2
    assert words[0] in capsys.readouterr().err.splitlines()[-1]
