"""The account of a run: kept + lost = done, every second in one kind, each number with where it is from."""

import json
import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.account import KINDS, Account
from metaseq_plugin.ledger.files import EVENTS, TALLY, UPDATES, ledger_folder
from metaseq_plugin.ledger.read_account import read_account
from metaseq_plugin.ledger.totals import Settings
from tests.ledger.written import BEGIN, HARDWARE, WrittenRun, usual_run


def check_sums(account: Account, run: WrittenRun) -> None:
    """What holds for every ledger that nobody damaged."""
    updates = account.updates
    assert updates.kept + updates.lost == updates.done == sum(run.done)
    made_here = [start for start in run.kept if start >= 0]
    assert updates.kept == len(made_here)
    assert updates.unseen == len(run.kept) - len(made_here)
    for start in account.starts:
        assert start.updates.done == run.done[start.number]
        assert start.updates.kept == run.kept.count(start.number)
        assert sum(start.seconds.values()) == pytest.approx(run.wall[start.number])
    assert set(account.seconds) == set(KINDS)
    assert account.wall_seconds == pytest.approx(sum(run.wall) + run.between)
    assert account.seconds["idle"] == pytest.approx(run.between)
    assert account.seconds["unknown"] == pytest.approx(0, abs=1e-3)  # of 2e9 seconds since 1970
    # An update takes a second, and so does a lost one; nothing else is lost in these.
    assert account.seconds["lost"] == pytest.approx(updates.lost, abs=1e-3)


STEP = st.one_of(
    st.tuples(st.just("updates"), st.integers(1, 23)),
    st.tuples(st.just("rewind"), st.floats(0, 1)),
    st.tuples(st.just("save"), st.floats(0.5, 9)),
    st.tuples(st.just("kill"), st.floats(0, 1)),
    st.tuples(st.just("end"), st.floats(0, 1)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=25), st.integers(1, 12), st.sampled_from([0, 0, 40]))
def test_whatever_happens_to_a_run_its_history_adds_up(
    steps: Any, interval: int, first: int
) -> None:
    with TemporaryDirectory() as folder:
        run = WrittenRun(Path(folder), interval)
        run.start(first)
        for step, value in steps:
            if step == "updates":
                run.updates(value)
            elif step == "rewind":
                run.rewind(int(value * run.update))
            elif step == "save":
                run.event("save", seconds=value)
            else:
                run.kill() if step == "kill" else run.end("stopped by SIGTERM")
                run.start(first=int(value * run.update))
        run.kill()
        check_sums(read_account(run.write()), run)


def test_a_run_of_three_starts(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "a")
    account = read_account(run.write())
    check_sums(account, run)
    assert (account.run, account.state, account.update, account.max_update) == (
        "a", "finished", 100, 100,
    )  # fmt: skip
    assert account.updates == (107, 100, 7, 0)
    assert [(start.state, start.first_update, start.last_update) for start in account.starts] == [
        ("killed", 0, 37), ("stopped", 30, 55), ("finished", 55, 100),
    ]  # fmt: skip
    assert account.starts[0].reason == "killed without a word"
    assert account.starts[1].reason == "stopped by SIGTERM"
    expected = {"starting": 12, "restarting": 24, "idle": 120, "saving": 2, "validating": 4,
                "lost": 7, "computing": 90, "waiting": 10}  # fmt: skip
    assert {kind: account.seconds[kind] for kind in expected} == pytest.approx(expected, abs=1e-3)
    assert account.valid[0]["ppl"] == 22.6
    assert account.begin == BEGIN
    assert account.end == pytest.approx(BEGIN + 269)
    assert account.problems == []


@pytest.mark.parametrize("is_saved", [True, False])
def test_a_start_goes_on_from_who_saved_there(tmp_path: Path, is_saved: bool) -> None:
    run = WrittenRun(tmp_path)
    run.start(0)
    run.updates(40)
    if is_saved:
        run.event("save", path="checkpoint_1_40.pt", seconds=1.0)
    run.kill()
    run.start(30)  # with --restore-file of an older one
    run.updates(15)
    run.kill()
    run.start(40)
    run.updates(5)
    run.end()
    account = read_account(run.write())
    kept = [start.updates.kept for start in account.starts]
    assert kept == ([40, 0, 5] if is_saved else [30, 10, 5])
    assert account.updates == (60, 45, 15, 0)


def test_a_start_that_made_nothing_loses_nothing(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    run.start(30)
    run.end("stopped by SIGINT")
    account = read_account(run.write())
    assert account.updates == (107, 100, 7, 0)
    assert (account.update, account.starts[3].updates) == (100, (0, 0, 0, 0))


def test_tokens_and_operations_are_of_all_updates_with_a_line(tmp_path: Path) -> None:
    account = read_account(usual_run(tmp_path).write())
    # The 7 updates behind the last line before the kill are in no line.
    assert (account.tokens, account.tokens_lost) == (100 * 512, 0)
    assert account.numbers["model_flops"].value == 100 * 512 * 6e3
    assert account.numbers["hardware_flops"].value == 100 * 512 * 8e3
    assert account.numbers["model_flops_causal"] == (
        None, "FLOPs", "unknown", "no causal_flops_per_token in the ledger",
    )  # fmt: skip
    assert account.numbers["mfu"].value == pytest.approx(0.35)


def test_tokens_of_a_line_that_is_cut_are_shared_out(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path)
    run.start(0)
    run.updates(40)
    run.end("stopped by SIGTERM")
    run.start(35)
    run.updates(5)
    run.end()
    account = read_account(run.write())
    check_sums(account, run)
    assert (account.tokens, account.tokens_lost) == (40 * 512, 5 * 512)


def test_energy_without_a_meter_is_estimated_from_rated_power(tmp_path: Path) -> None:
    account = read_account(usual_run(tmp_path).write())
    seconds = 12 * 3 + 107 + 2 + 4
    hours = 8 * seconds / 3600
    numbers = account.numbers
    assert numbers["device_hours"].value == pytest.approx(hours)
    assert numbers["device_kwh"].value == pytest.approx(hours * 0.4)
    assert numbers["device_kwh"].basis == "estimated"
    assert "400 W" in numbers["device_kwh"].formula
    assert numbers["kwh"].value == pytest.approx(hours * 0.4 * 1.1)
    assert numbers["co2e"].value == pytest.approx(hours * 0.4 * 1.1 * 0.385)
    assert (numbers["pue"].basis, numbers["intensity"].basis) == ("assumed", "assumed")


def test_starts_on_other_numbers_of_devices_count_their_own(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path)
    run.start(0)
    run.updates(30)
    run.end("stopped by SIGTERM")
    run.start(30, hardware={**HARDWARE, "devices": 2})
    run.updates(60)
    run.end()
    found = read_account(run.write()).numbers["device_hours"]
    assert found.value == pytest.approx((8 * (12 + 30) + 2 * (12 + 60)) / 3600)
    assert found.formula == "8 devices × 0.01167 h + 2 devices × 0.02 h"


def test_energy_of_meters_is_the_sum_over_machines(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    run.write()
    for node, joules in (("node1", (1e6, 3.6e6)), ("node2", (2e6, 7.2e6))):
        rows = [
            {"time": BEGIN, "joules": each, "energy_is": "measured", "source": "NVML"}
            for each in joules
        ]
        path = ledger_folder(tmp_path) / f"energy-{node}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"time": 1, "jou')
    numbers = read_account(tmp_path, settings=Settings(pue=1.5, intensity="FRA")).numbers
    assert numbers["device_kwh"] == (3.0, "kWh", "measured", "2 machines: NVML")
    assert (numbers["kwh"].value, numbers["kwh"].basis) == (4.5, "estimated")
    assert numbers["co2e"].value == pytest.approx(4.5 * 0.056)


def test_energy_of_an_unknown_device_is_unknown(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    for row in run.rows:
        if row["kind"] == "start":
            row["hardware"] = {"device": "Voodoo 3", "devices": 2}
    numbers = read_account(run.write()).numbers
    assert (numbers["kwh"].value, numbers["co2e"].value) == (None, None)
    assert "the rated power of Voodoo 3 is not known" in numbers["co2e"].formula


def test_an_intensity_of_zero_is_no_carbon(tmp_path: Path) -> None:
    numbers = read_account(usual_run(tmp_path).write(), settings=Settings(intensity="0")).numbers
    assert (numbers["co2e"].value, numbers["co2e"].basis) == (0.0, "estimated")


@pytest.mark.parametrize(
    ("given", "option"),
    [
        (Settings(intensity="-3"), "--carbon-intensity"),
        (Settings(intensity="1e9"), "--carbon-intensity"),
        (Settings(pue=0.5), "--pue"),
        (Settings(pue=math.nan), "--pue"),
    ],
)
def test_absurd_settings_of_the_report_are_refused(
    tmp_path: Path, given: Settings, option: str
) -> None:
    run = usual_run(tmp_path).write()
    with pytest.raises(UserError, match=f"`{option}` must be"):
        read_account(run, settings=given)


def test_absurd_settings_in_a_ledger_are_said_and_leave_carbon_unknown(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    for row in run.rows:
        if row["kind"] == "start":
            row["options"] = {"task.carbon_intensity": "much", "task.pue": "none"}
    account = read_account(run.write())
    assert account.numbers["co2e"].value is None
    assert [problem.split("`")[1] for problem in account.problems] == [
        "--pue",
        "--carbon-intensity",
    ]


def test_a_launcher_says_why_a_start_was_killed(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    launch = [
        {"time": BEGIN - 5, "kind": "submitted", "job": "7"},
        {
            "time": BEGIN + 70,
            "kind": "failed",
            "reason": "rank 3 ended by SIGKILL",
            "node": "node1",
        },
    ]
    account = read_account(run.write(), launch)
    assert account.starts[0].reason == "failed: rank 3 ended by SIGKILL"
    assert account.events[0] == {**launch[0], "of": "launch"}
    assert account.starts[1].launch == ""


def test_a_run_that_was_seen_just_now_is_running(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path)
    run.start(0)
    run.updates(40)
    run.kill()
    account = read_account(run.write(), now=run.now + 5)
    assert (account.state, account.reason, account.update) == ("running", "", 40)
    assert account.eta_seconds == pytest.approx(60)
    assert read_account(tmp_path, now=run.now + 100).state == "killed"


def test_a_start_that_never_came_to_an_update_loses_nothing(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    run.number += 1
    run.now += 60
    run.update = 0
    run.event("start", began=run.now, options={}, hardware={})
    run.event("end", reason="`--lr` must be …", done=0, seconds=3.0, accounts={"starting": 3.0})
    account = read_account(run.write())
    assert account.updates == (107, 100, 7, 0)
    assert (account.state, account.update) == ("failed", 100)
    assert account.starts[3].first_update is None


def damaged(run: WrittenRun, name: str, change: Any) -> Account:
    path = ledger_folder(run.write()) / name
    path.write_bytes(change(path.read_bytes()))
    return read_account(run.folder)


def test_torn_and_foreign_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    whole = read_account(usual_run(tmp_path / "whole").write())
    account = damaged(
        usual_run(tmp_path / "run"),
        UPDATES,
        lambda raw: raw + b'not json\n[1]\n{"time": 3}\n{"time": 1795804',
    )
    assert account.problems == ["4 lines are torn, or not the ledger's: left out."]
    assert account.updates == whole.updates
    assert account.seconds == whole.seconds


@pytest.mark.parametrize("name", [EVENTS, UPDATES])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.83])
def test_a_file_cut_in_the_middle_still_adds_up(tmp_path: Path, name: str, share: float) -> None:
    account = damaged(usual_run(tmp_path), name, lambda raw: raw[: int(share * len(raw))])
    assert account.updates.kept + account.updates.lost == account.updates.done
    starts = sum(sum(start.seconds.values()) for start in account.starts)
    assert account.wall_seconds == pytest.approx(starts + account.seconds["idle"])
    assert min(account.seconds.values()) >= 0


@pytest.mark.parametrize("name", [UPDATES, TALLY])
def test_a_file_that_is_not_there_leaves_the_rest(tmp_path: Path, name: str) -> None:
    run = usual_run(tmp_path)
    (ledger_folder(run.write()) / name).unlink()
    account = read_account(tmp_path)
    assert account.updates == (107, 100, 7, 0)
    assert account.wall_seconds == pytest.approx(sum(run.wall) + run.between)


def test_a_start_that_no_event_tells_of_is_known_from_its_lines(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    run.rows = [row for row in run.rows if row["start"] != 1]
    account = read_account(run.write())
    assert account.starts[1].first_update == 30
    assert account.starts[1].last_update == 55
    # With the start after it, what it was told of the kill before is gone.
    assert account.updates == (100, 100, 0, 0)


def test_a_ledger_from_the_future_is_read_with_a_warning(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    run.rows[0]["format"] = 7
    run.rows.insert(3, {"time": BEGIN, "kind": "teleported", "update": 3, "start": 0})
    account = read_account(run.write())
    assert account.updates.kept == 100
    assert "of format 7, and this version knows 1" in account.problems[0]


def test_a_clock_that_jumps_back_is_said_and_no_time_is_negative(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path)
    run.start(0)
    run.updates(20)
    run.end("stopped by SIGTERM")
    run.now -= 3600
    run.start(20)
    run.updates(10)
    run.now -= 600  # and within a start
    run.updates(10)
    run.end()
    account = read_account(run.write())
    assert "Start 1 begins 3540 s before start 0 ends: a clock was set back." in account.problems
    assert account.updates == (40, 40, 0, 0)
    assert account.seconds["idle"] == 0
    assert account.seconds["computing"] == pytest.approx(36)
    assert min(account.seconds.values()) >= 0


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RUN must be the --save-dir of a run that keeps a ledger"):
        read_account(tmp_path)
    run = usual_run(tmp_path)
    run.rows, run.lines = [], []
    run.write()
    (ledger_folder(tmp_path) / TALLY).unlink()
    with pytest.raises(UserError, match="has 0 lines and none"):
        read_account(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = ledger_folder(usual_run(tmp_path).write()) / UPDATES
    path.chmod(0)
    with pytest.raises(UserError, match="must be a folder whose ledger can be read"):
        read_account(tmp_path)


def test_a_ledger_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    path = ledger_folder(usual_run(tmp_path).write()) / UPDATES
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"cannot \(Is a directory\)"):
        read_account(tmp_path)


def test_it_is_json(tmp_path: Path) -> None:
    plain = json.loads(json.dumps(read_account(usual_run(tmp_path).write()).as_json()))
    assert plain["updates"] == {"done": 107, "kept": 100, "lost": 7, "unseen": 0}
    assert plain["starts"][0]["updates"]["lost"] == 7
    assert plain["numbers"]["co2e"]["basis"] == "estimated"
    assert plain["wall_seconds"] == pytest.approx(269)
    assert plain["curve"][0]["update"] == 10
