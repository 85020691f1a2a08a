"""What fairseq's log lines, trackers and files gain: the right numbers, over restarts and ranks, and none with --no-ledger."""

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest
import torch
from fairseq.logging import metrics

from metaseq_plugin.compat.log_lines import tokens_seen
from metaseq_plugin.compat.watched_updates import pass_over
from metaseq_plugin.ledger.flops import model_flops
from metaseq_plugin.ledger.node_energy import last_row
from metaseq_plugin.sizes import OPTSize
from tests.fairseq_runs import Ended, train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

OPTIONS = ("--disable-validation", "--log-format", "json", "--log-interval", 2)
VOCAB = 40
PEAK = 2e9


def a_known_peak(rank: int = 0) -> None:
    """For ``prepare``: products are not measured, and no counter of this machine is read."""
    from metaseq_plugin.ledger import node_energy, peak

    vars(peak)["product_rate"] = lambda device, dtype: PEAK
    vars(node_energy)["cpu_counter"] = lambda: None


def lines(ended: Ended, tag: str = "train_inner") -> List[Dict[str, Any]]:
    assert ended.status == 0, ended.output
    found = [line.split(f" | {tag} | ") for line in ended.output.splitlines()]
    return [json.loads(parts[1]) for parts in found if len(parts) == 2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("lines") / "data", VOCAB)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_an_update_that_is_skipped_has_no_tokens_and_the_sum_goes_on() -> None:
    """The watch passes over the first and the third of four updates of 100 tokens."""
    updates = 0

    def count(number: int) -> None:
        nonlocal updates
        updates = number

    trainer = SimpleNamespace(
        cfg=SimpleNamespace(common=SimpleNamespace(amp=False)), zero_grad=lambda: None,
        get_num_updates=lambda: updates, set_num_updates=count,
    )  # fmt: skip
    metrics.reset()
    try:
        for is_skipped in (True, False, True, False):
            if is_skipped:
                pass_over(trainer)
            else:
                metrics.log_scalar("wpb", 100, priority=180)
                count(updates + 1)
        assert tokens_seen({"num_updates": updates}) == 200
    finally:
        metrics.reset()


def test_the_numbers_of_a_line(data: Path, tmp_path: Path) -> None:
    ended = train(
        data, tmp_path, *OPTIONS, "--max-update", 8, "--device-watts", 36, "--metrics-file",
        tmp_path / "opt.prom", prepare=a_known_peak,
    )  # fmt: skip
    assert "peak       0.002 TFLOP/s a device in fp32 (measured product)" in ended.output
    assert "energy     estimated: --device-watts 36 × 1" in ended.output
    rows = lines(ended)
    assert [int(row["num_updates"]) for row in rows] == [2, 4, 6, 8]
    flops = model_flops(OPTSize(2, 16, 2), 32, VOCAB, dropout=0.1).training
    for row in rows:
        speed = float(row["wps"])
        assert float(row["tflops"]) == pytest.approx(speed * flops / 1e12, rel=1e-3)
        assert (
            float(row["mfu"]) == float(row["hfu"]) == pytest.approx(speed * flops / PEAK, rel=1e-3)
        )
        left = (8 - int(row["num_updates"])) * float(row["wpb"]) / speed
        assert float(row["eta"]) == pytest.approx(left, abs=0.51)
        # 36 W are 0.00001 kWh a second.
        assert float(row["kwh_estimated"]) < 1e-5 * (float(row["wall"]) + 1)
    assert float(rows[-1]["kwh_estimated"]) > float(rows[0]["kwh_estimated"]) > 0
    assert "kwh" not in rows[0]
    (whole,) = lines(ended, "train")
    assert whole["train_tokens"] == rows[-1]["tokens"]
    kept = last_row(next((tmp_path / "ledger").glob("energy-*.jsonl")))
    assert kept["joules"] == pytest.approx(36 * kept["seconds"], rel=0.01)
    assert kept["update"] == 8
    exported = (tmp_path / "opt.prom").read_text()
    assert f'metaseq_train_updates_total{{run="{tmp_path}"}} 8.0' in exported
    assert f'metaseq_train_mfu_ratio{{run="{tmp_path}"}} {float(rows[-1]["mfu"])!r}' in exported


def test_the_ledger_has_them_too(data: Path, tmp_path: Path) -> None:
    train(
        data, tmp_path, *OPTIONS, "--max-update", 8, "--ledger-interval", 4, "--device-watts", 36,
        prepare=a_known_peak,
    )  # fmt: skip
    rows = [json.loads(row) for row in (tmp_path / "ledger/updates.jsonl").read_text().splitlines()]
    flops = model_flops(OPTSize(2, 16, 2), 32, VOCAB, dropout=0.1).training
    assert len(rows) == 2
    for row in rows:
        speed = row["ntokens"] / (row["computing"] + row["waiting"])
        assert row["tflops"] == pytest.approx(speed * flops / 1e12)
        assert row["mfu"] == pytest.approx(speed * flops / PEAK)
        assert row["watts"] == pytest.approx(36, rel=0.05)
        assert row["energy_is"] == "estimated"
    events = [
        json.loads(row) for row in (tmp_path / "ledger/events.jsonl").read_text().splitlines()
    ]
    (ready,) = [event for event in events if event["kind"] == "ready"]
    assert (ready["peak_flops"], ready["peak_source"]) == (PEAK, "measured product")
    assert (ready["num_devices"], ready["num_nodes"], ready["precision"]) == (1, 1, "fp32")
    assert ready["energy_source"] == "--device-watts 36 × 1"


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(3, 6), (11, 13)])  # within an epoch, and at its end
def test_tokens_and_energy_go_on_over_two_restarts(
    data: Path, tmp_path: Path, stops: tuple[int, int]
) -> None:
    """As fairseq's own sum does not: it saves the one that it has loaded."""
    end = stops[1] + 3
    straight = lines(
        train(data, tmp_path / "a", *OPTIONS, "--max-update", end, prepare=a_known_peak)
    )
    *_, resumed = [
        train(
            data, tmp_path / "b", *OPTIONS, "--max-update", stop, "--log-interval", 1,
            prepare=a_known_peak,
        )
        for stop in (*stops, end)
    ]  # fmt: skip
    tokens = {row["num_updates"]: row["tokens"] for row in lines(resumed)}
    expected = {row["num_updates"]: row["tokens"] for row in straight}
    assert tokens.keys() & expected.keys()
    assert all(tokens[update] == expected[update] for update in tokens.keys() & expected.keys())
    rows = (tmp_path / "b/ledger" / next((tmp_path / "b/ledger").glob("energy-*")).name).read_text()
    joules = [json.loads(row)["joules"] for row in rows.splitlines()]
    assert len(joules) == 3
    assert joules == sorted(joules)


@pytest.mark.slow
def test_meters_that_begin_anew_leave_tokens_out(data: Path, tmp_path: Path) -> None:
    """A part of them would pass for all."""
    train(data, tmp_path, *OPTIONS, "--max-update", 2, prepare=a_known_peak)
    rows = lines(
        train(data, tmp_path, *OPTIONS, "--max-update", 4, "--reset-meters", prepare=a_known_peak)
    )
    assert rows
    assert all("tokens" not in row and "mfu" in row for row in rows)


def test_nothing_of_it_without_a_ledger(data: Path, tmp_path: Path) -> None:
    ended = train(data, tmp_path, *OPTIONS, "--max-update", 4, "--no-ledger", prepare=a_known_peak)
    new = {"tokens", "tflops", "mfu", "hfu", "kwh_estimated", "eta"}
    assert all(not new & row.keys() for row in lines(ended))
    assert not (tmp_path / "ledger").exists()
    assert "TFLOP/s" not in ended.output


def test_a_run_that_saves_nothing_is_metered_too(data: Path, tmp_path: Path) -> None:
    ended = train(data, tmp_path, *OPTIONS, "--max-update", 4, "--no-save", prepare=a_known_peak)
    assert all({"mfu", "kwh_estimated", "tokens"} <= row.keys() for row in lines(ended))
    assert not (tmp_path / "ledger").exists()


@pytest.mark.slow
def test_a_task_of_fairseqs_own_has_the_numbers_too(data: Path, tmp_path: Path) -> None:
    """It does not know the options of the ledger, whose defaults hold."""
    ended = train(
        data,
        tmp_path,
        *OPTIONS,
        "--task",
        "language_modeling",
        "--max-update",
        4,
        prepare=a_known_peak,
    )
    flops = model_flops(OPTSize(2, 16, 2), 32, VOCAB, dropout=0.1).training
    for row in lines(ended):
        assert float(row["mfu"]) == pytest.approx(float(row["wps"]) * flops / PEAK, rel=1e-3)


@pytest.mark.slow
def test_two_ranks_are_two_devices_on_one_machine(data: Path, tmp_path: Path) -> None:
    ended = train_ranks(
        2, data, tmp_path, *OPTIONS, "--max-update", 4, "--device-watts", 36, prepare=a_known_peak
    )
    assert [rank.status for rank in ended] == [0, 0], ended
    flops = model_flops(OPTSize(2, 16, 2), 32, VOCAB, dropout=0.1).training
    for row in lines(ended[0]):
        expected = float(row["wps"]) / 2 * flops / PEAK
        assert float(row["mfu"]) == pytest.approx(expected, rel=1e-3)
    assert all("mfu" not in row for row in lines(ended[1]))
    (file,) = (tmp_path / "ledger").glob("energy-*.jsonl")
    assert last_row(file)["devices"] == 2
    assert last_row(file)["joules"] == pytest.approx(72 * last_row(file)["seconds"], rel=0.01)


@pytest.mark.slow
def test_nothing_of_training_changes(data: Path, tmp_path: Path) -> None:
    """Bit for bit: what is measured is only looked at."""
    runs = {}
    for name, options in (("with", ()), ("without", ("--no-ledger",))):
        recorder = Recorder(tmp_path / name, weights=True)
        assert not train(
            data, tmp_path / f"run-{name}", *OPTIONS, *options, "--max-update", 6, prepare=recorder
        ).status
        runs[name] = recorder
    assert runs["with"].rows() == runs["without"].rows()
    weights = runs["with"].weights()
    assert all(torch.equal(weights[key], x) for key, x in runs["without"].weights().items())


@pytest.mark.slow
def test_tensorboard_draws_them(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    reader: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    ended = train(
        data, tmp_path, *OPTIONS, "--max-update", 4, "--tensorboard-logdir", tmp_path / "tb",
        prepare=a_known_peak,
    )  # fmt: skip
    drawn = reader.EventAccumulator(str(tmp_path / "tb/train_inner")).Reload()
    for row, place in zip(lines(ended), range(2), strict=True):
        for name in ("tokens", "tflops", "mfu", "hfu", "kwh_estimated", "eta"):
            scalar = drawn.Scalars(name)[place]
            assert scalar.step == int(row["num_updates"])
            assert scalar.value == pytest.approx(float(row[name]), rel=1e-5)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("--pue", 0.9), "`--pue` must be at least 1, but is 0.9. LLaMA's paper assumed 1.1."),
        (("--device-watts", -3), "`--device-watts` must be above 0, but is -3."),
        (("--carbon-intensity", "Mars"), "`--carbon-intensity` must be g/kWh"),
        (
            ("--metrics-file", "x.prom", "--no-ledger"),
            "`--metrics-file` must come without --no-ledger",
        ),
        (("--metrics-file", "/nowhere/x.prom"), "`--metrics-file` must be in a folder that exists"),
    ],
)
def test_what_is_refused(data: Path, tmp_path: Path, option: Any, sentence: str) -> None:
    ended = train(data, tmp_path, *OPTIONS, "--max-update", 2, *option)
    assert ended.status == 2, ended.output
    assert sentence in ended.output
