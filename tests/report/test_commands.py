"""metaseq report, note and watch as commands: what they print and write, what they refuse, and without torch."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List

import pytest

from metaseq_plugin.cli import main
from metaseq_plugin.ledger.files import EVENTS, TALLY, ledger_folder
from metaseq_plugin.report import command, watch
from metaseq_plugin.report.runs import account_of
from tests.ledger.written import usual_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return usual_run(tmp_path / "runs" / "a").write()


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The sentence of a command that is refused."""
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"metaseq \w+: error: .+ must .+ but .+\. .+\.?\n", error), error
    return error


def test_report_prints_a_screen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.startswith("a: finished\n")


def test_report_of_a_folder_of_runs_is_a_table(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual_run(tmp_path / "runs" / "b").write()
    assert main(["report", str(tmp_path / "runs")]) == 0
    rows = capsys.readouterr().out.split("\n")
    assert [row.split()[0] for row in rows[:3]] == ["run", "a", "b"]


def test_one_run_that_cannot_be_read_does_not_hide_the_others(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual_run(tmp_path / "runs" / "b").write()
    bad = ledger_folder(usual_run(tmp_path / "runs" / "c").write())
    (bad / EVENTS).write_text("nothing\n")
    (bad / TALLY).unlink()
    (bad / "updates.jsonl").unlink()
    assert main(["report", str(tmp_path / "runs")]) == 0
    found = capsys.readouterr()
    assert found.out.count("finished") == 2
    assert "has 1 lines and none" in found.err


def test_json_is_a_list_of_accounts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--json", "--pue", "2", "--carbon-intensity", "FRA"]) == 0
    (account,) = json.loads(capsys.readouterr().out)
    assert account["updates"] == {"done": 107, "kept": 100, "lost": 7, "unseen": 0}
    assert account["numbers"]["pue"] == {
        "value": 2.0,
        "unit": "",
        "basis": "given",
        "formula": "--pue",
    }
    assert account["numbers"]["intensity"]["value"] == 56.0


def test_chronicle_is_markdown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--chronicle"]) == 0
    assert capsys.readouterr().out.startswith("# Chronicle of a\n")


def test_html_is_written_and_opened(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: List[str] = []

    def open_page(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(command.webbrowser, "open", open_page)
    page = tmp_path / "new" / "a.html"
    assert main(["report", str(run), "--html", str(page), "--open"]) == 0
    assert page.read_text("utf-8").startswith("<!")
    assert opened == [page.as_uri()]
    assert f"Written: {page}" in capsys.readouterr().err
    assert main(["report", str(run), "--open"]) == 0
    assert opened[1] == (ledger_folder(run) / "report.html").as_uri()
    capsys.readouterr()
    monkeypatch.setattr(command.webbrowser, "open", lambda url: False)
    assert main(["report", str(run), "--open"]) == 2
    assert "`--open` must find a browser" in capsys.readouterr().err


def test_what_is_wrong_for_every_run_is_said_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual_run(tmp_path / "runs" / "b").write()
    assert refused(capsys, "report", tmp_path / "runs", "--pue", "0.5").count("--pue") == 1


def test_a_pipe_that_is_closed_hides_no_problem(run: Path, tmp_path: Path) -> None:
    """As that of `metaseq report runs | head -1` is."""
    page, (reading, writing) = tmp_path / "a.html", os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-c", f"from metaseq_plugin.cli import main; main(['report', '{run}', '--html', '{page}'])"],
        stdout=writing, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, f"Written: {page}\n")


@pytest.mark.parametrize("word", ["report", "watch", "note"])
def test_what_is_no_run_is_refused(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["hello"] if word == "note" else []
    (tmp_path / "file").write_text("")
    assert "is not there" in refused(capsys, word, tmp_path / "none", *more)
    assert "is a file" in refused(capsys, word, tmp_path / "file", *more)
    assert "has none" in refused(capsys, word, tmp_path, *more)


@pytest.mark.parametrize(
    "words",
    [["--pue", "0.2"], ["--pue", "nan"], ["--carbon-intensity", "-1"], ["--carbon-intensity", "1e7"],
     ["--carbon-intensity", "Atlantis"], ["--html", "/proc/none/a.html"]],
)  # fmt: skip
def test_absurd_options_are_refused(
    run: Path, words: List[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"`{words[0]}` must" in refused(capsys, "report", run, *words)


def test_a_note_stands_in_the_ledger_where_the_run_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (ledger_folder(run) / EVENTS).read_bytes()
    assert main(["note", str(run), "Lowered", "lr: «1e-4»\x1b[2J", "--author", "anna"]) == 0
    raw = (ledger_folder(run) / EVENTS).read_bytes()
    assert raw.startswith(before)
    row = json.loads(raw[len(before) :])
    assert abs(row.pop("time") - time.time()) < 60
    assert row == {
        "kind": "note", "update": 100, "start": 2, "author": "anna", "text": "Lowered lr: «1e-4»\x1b[2J",
    }  # fmt: skip
    account = account_of(run)
    assert account.updates == (107, 100, 7, 0)
    assert main(["report", str(run), "--chronicle"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "Lowered lr: «1e-4»" in out


def test_a_note_from_the_standard_input_goes_behind_a_torn_line(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ledger_folder(run) / EVENTS
    path.write_bytes(path.read_bytes() + b'{"time": 17')
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines\n"))
    monkeypatch.setattr("getpass.getuser", _nobody)
    assert main(["note", str(run), "-"]) == 0
    lines = path.read_bytes().split(b"\n")
    assert lines[-3] == b'{"time": 17'
    row = json.loads(lines[-2])
    assert (row["text"], row["author"]) == ("two\nlines", "unknown")


def _nobody() -> str:
    raise KeyError("getpwuid(): uid not found: 1234")


def test_notes_that_are_none_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "but has 0" in refused(capsys, "note", run, "  ")
    assert "but has 100,001" in refused(capsys, "note", run, "x" * 100_001)
    path = ledger_folder(run) / EVENTS
    path.rename(path.with_name("elsewhere"))
    os.symlink("/dev/full", path)
    assert "No space left on device" in refused(capsys, "note", run, "hello")


def test_a_note_in_another_encoding_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"))
    assert "TEXT must be utf-8" in refused(capsys, "note", run, "-")


def test_a_screen_is_drawn_over_the_one_before() -> None:
    assert watch.drawn(["a", "b"], is_first=True) == "\x1b[H\x1b[Ja\x1b[K\nb\x1b[K\n\x1b[J"
    assert watch.drawn(["a"], is_first=False) == "\x1b[Ha\x1b[K\n\x1b[J"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9"])
def test_watch_refuses_times_that_are_none(
    run: Path, seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "`--every` must be" in refused(capsys, "watch", run, f"--every={seconds}")


def in_terminal(*words: str) -> "tuple[subprocess.Popen[bytes], int]":
    """`metaseq` in a terminal of 80 columns, and our end of it."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("metaseq")), *words],
        stdout=its, stderr=its, env={**os.environ, "COLUMNS": "80", "LINES": "24"},
    )  # fmt: skip
    os.close(its)
    return process, ours


def read_until(terminal: int, sign: bytes, seconds: float = 60.0) -> bytes:
    """What the process writes until ``sign`` is in it."""
    found, deadline = b"", time.monotonic() + seconds
    os.set_blocking(terminal, False)
    while sign not in found:
        assert time.monotonic() < deadline, found
        try:
            found += os.read(terminal, 65_536)
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:  # its end is closed
            break
    return found


def test_watch_draws_again_and_ends_with_ctrl_c(run: Path) -> None:
    process, terminal = in_terminal("watch", str(run), "--every", "0.1")
    try:
        first = read_until(terminal, b"events: ")
        assert first.startswith(b"\x1b[H\x1b[Ja: finished\x1b[K")
        path = ledger_folder(run) / EVENTS
        row = {"time": time.time(), "kind": "note", "author": "anna", "text": "hello there"}
        path.write_text(path.read_text() + json.dumps(row) + "\n")
        read_until(terminal, b"anna: hello there")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert b"Traceback" not in read_until(terminal, b"\0never\0")
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def test_reading_a_ledger_needs_no_torch(run: Path) -> None:
    program = (
        "import sys, types\n"
        "package = sys.modules['metaseq_plugin'] = types.ModuleType('metaseq_plugin')\n"
        f"package.__path__ = [{str(Path(watch.__file__).parents[1])!r}]\n"
        "from metaseq_plugin.cli import main\n"
        f"assert main(['report', {str(run)!r}]) == 0\n"
        f"assert main(['report', {str(run)!r}, '--html', {str(run / 'a.html')!r}]) == 0\n"
        f"assert main(['note', {str(run)!r}, 'hello']) == 0\n"
        "print(sorted({'torch', 'fairseq', 'omegaconf', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr
