"""What `metaseq report` prints: a screen of 80 columns, a table, a curve of plain characters, the chronicle."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.ledger.account import Account
from metaseq_plugin.report.chronicle import chronicle
from metaseq_plugin.report.curve import Dot, draw
from metaseq_plugin.report.runs import account_of
from metaseq_plugin.report.screen import live, screen
from metaseq_plugin.report.table import table
from tests.ledger.written import WrittenRun, usual_run


@pytest.fixture
def account(tmp_path: Path) -> Account:
    return account_of(usual_run(tmp_path / "a").write())


def test_the_screen_says_it_all_in_80_columns(account: Account) -> None:
    lines = screen(account, 80)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert lines[0] == "a: finished"
    for said in (
        "100 of 100 (100.0%) updates, 107 made, 7 of them lost, 51,200 tokens",
        "  command   fairseq-train data --arch opt_125m",
        "0123456789ab (main)",
        "8 x NVIDIA A100-SXM4-80GB, 1 node",
        "data, 4 files, hash f00df00df00d",
        "time: 4.48 min",
        "updates that were lost       7 s    2.6 %",
        "0-37      7  killed without a word",
        "model FLOPs     307,200,000 FLOPs estimated 51200 tokens × 6000 FLOPs",
        "0.1324 kWh × PUE 1.1 (assumed)",
        "55 end        stopped by SIGTERM, 41 s",
    ):
        assert said in text


def test_the_shares_of_the_time_are_100_per_cent(account: Account) -> None:
    lines = screen(account, 80)
    begin = next(place for place, line in enumerate(lines) if line.startswith("time:"))
    rows = lines[begin + 1 : lines.index("", begin)]
    assert sum(float(row.split("%")[0].split()[-1]) for row in rows) == pytest.approx(100)


@pytest.fixture(scope="module")
def kept_account(tmp_path_factory: pytest.TempPathFactory) -> Account:
    return account_of(usual_run(tmp_path_factory.mktemp("runs") / "a").write())


@given(text=st.text(), columns=st.integers(40, 200), height=st.integers(3, 60))
def test_no_line_is_longer_and_no_terminal_obeys(
    kept_account: Account, text: str, columns: int, height: int
) -> None:
    what = {"command": text, "git": {"commit": text, "branch": text}, "data": {"path": text},
            "hardware": {"device": text, "devices": 3}}  # fmt: skip
    found = dataclasses.replace(kept_account, what=what, run=text, reason=text, problems=[text])
    shown = live(found, columns, height)
    assert len(shown) <= height
    lines = [*screen(found, columns), *shown]
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) <= columns


def test_the_live_screen_fits_a_terminal_of_24_lines(account: Account) -> None:
    lines = live(account, 80, 23)
    assert len(lines) <= 23
    text = "\n".join(lines)
    for said in (
        "a: finished",
        "loss, bits a token",
        "computing 33.5 %",
        "145.7 Wh (estimated)",
        "finished, 57 s",
    ):
        assert said in text


def test_a_run_that_has_made_nothing_yet(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "new")
    run.start(0)
    run.kill()
    account = account_of(run.write())
    text = "\n".join(screen(account, 80))
    assert "new: killed" in text
    assert "0 of 100 (0.0%) updates" in text
    assert "loss, bits" not in text
    assert "\n".join(table([account], 80)).count("killed") == 1


def test_a_table_of_runs_fits_80_columns(account: Account) -> None:
    long = dataclasses.replace(account, run="sweep.lr0.0006.clip1.0.ngpu16.seed17", update=123_456)
    lines = table([account, long], 80)
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[:3] == ["run", "state", "update"]
    assert lines[1].split() == [
        "a", "finished", "100", "3.333", "4.500", "492", "35.0%", "4.48min", "7", "~145.7Wh", "~56.09g",
    ]  # fmt: skip
    assert "123k" in lines[2]


def test_a_curve_goes_through_its_values() -> None:
    drawn = draw([Dot(0, 10.0), Dot(50, 5.0), Dot(100, 0.0)], columns=28, lines=3)
    assert drawn == [
        "10 |*",
        "   |            *",
        " 0 |                       *",
        "   +------------------------",
        "    0            100 updates",
    ]


@pytest.mark.parametrize("dots", [[], [Dot(3, 1.0)], [Dot(3, float("nan")), Dot(9, 1.0)]])
def test_a_curve_of_nothing_is_none(dots: Any) -> None:
    assert draw(dots, 80, 8) == []


def test_a_flat_curve_is_flat() -> None:
    drawn = draw([Dot(0, 2.0), Dot(10, 2.0)], 40, 5)
    assert [line.count("*") for line in drawn[:5]] == [0, 0, 2, 0, 0]


def test_the_chronicle_tells_each_day(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "a")
    run.now += 86_400
    run.event("note", author="anna", text="Loss is *flat*.\n<b>Lowered</b> lr")
    text = chronicle(account_of(run.write()))
    assert text.startswith("# Chronicle of a\n")
    assert "## 2026-11-27\n" in text
    assert "- **18:34** killed at update 37: " in text
    assert "killed without a word; 7 of its updates were lost" in text
    assert "*At the end of the day: update 100, loss 3.333" in text
    assert text.endswith(
        "## 2026-11-28\n\n- **18:37** note by anna at update 100\n\n"
        "  > Loss is \\*flat\\*.\n  > \\<b\\>Lowered\\</b\\> lr\n"
    )


def test_routine_events_in_a_row_are_one_entry(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path)
    run.start(0)
    for place in range(5):
        run.updates(10)
        run.event("save", path="x", seconds=2.0)
        run.event("valid", subset="valid", loss=5.0 - place, seconds=1.0)
    run.event("note", author="a", text="so far")
    run.event("save", path="x", seconds=2.0)
    run.end()
    text = chronicle(account_of(run.write()))
    assert "- **18:33–18:34** 5 saves at updates 10 to 50, 2 s each\n" in text
    assert "- **18:33–18:34** 5 validations at updates 10 to 50, loss 5 → 1, 1 s each\n" in text
    assert text.index("so far") < text.index("save at update 50")


def test_events_of_a_later_version_are_told_as_they_are(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    run.event("teleported", place="moon", of=None)
    text = chronicle(account_of(run.write()))
    assert "teleported at update 100: place moon" in text
