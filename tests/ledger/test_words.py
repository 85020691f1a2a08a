"""Numbers, times and events in words."""

from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.ledger.telling import told
from metaseq_plugin.ledger.words import clock, day, duration, quantity, shares


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "kWh", "unknown"),
        (0.00031, "kWh", "0.31 Wh"),
        (356_167.68, "kWh", "356.2 MWh"),
        (137_125, "kg", "137.1 t"),
        (0.0000794, "kg", "79.4 mg"),
        (4_408_832, "bytes", "4.409 MB"),
        (0.3529, "of the peak", "35.3 %"),
        (0.005512, "TFLOP/s a device", "5.512 GFLOP/s a device"),
        (147.3, "TFLOP/s a device", "147.3 TFLOP/s a device"),
        (4.3e23, "FLOPs", "4.300e23 FLOPs"),
        (965_187_993_600.0, "FLOPs", "9.652e11 FLOPs"),
        (180_000_000_000, "tokens", "180,000,000,000 tokens"),
        (512, "tokens/s", "512 tokens/s"),
        (3.4567, "", "3.457"),
    ],
)
def test_a_quantity_stands_in_the_unit_that_suits(value: Any, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (94.3, "94.3 s"), (630, "10.5 min"), (3600 * 13.7, "13.7 h"), (86400 * 33, "33 days")],
)  # fmt: skip
def test_a_duration_stands_in_the_unit_that_suits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_times_are_utc_and_impossible_ones_say_so() -> None:
    assert (day(1_795_809_329.6), clock(1_795_809_329.6)) == ("2026-11-27", "19:55")
    assert (day(1e300), clock(-1e300)) == ("?", "?")


def test_thirds_are_rounded_so_that_they_add_up() -> None:
    assert sorted(shares([1, 1, 1])) == ["33.3 %", "33.3 %", "33.4 %"]
    assert shares([]) == []
    assert shares([0.0, 2.0]) == ["0.0 %", "100.0 %"]


@given(st.lists(st.floats(0, 1e12), min_size=1))
def test_shares_add_up(parts: "list[float]") -> None:
    texts = shares(parts)
    if sum(parts) > 0:
        assert sum(round(float(text.split()[0]) * 10) for text in texts) == 1000
        for part, text in zip(parts, texts):
            assert abs(float(text.split()[0]) - 100 * part / sum(parts)) <= 0.1 + 1e-9
    else:
        assert texts == []


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"kind": "start", "start": 1, "layout": {"ranks": 1}}, "start 1, 1 rank"),
        ({"kind": "start", "start": 0, "layout": {"ranks": 992}}, "start 0, 992 ranks"),
        (
            {"kind": "save", "path": "a.pt", "seconds": 6.0, "stall": 1.5, "bytes": 4e6},
            "a.pt, 6 s, 1.5 s of them the run stood, 4 MB",
        ),
        ({"kind": "valid", "subset": "valid", "loss": 3.9, "ppl": 14.9, "seconds": 4.0}, "valid, loss 3.9, perplexity 14.9, 4 s"),
        ({"kind": "resume", "from": "a.pt", "changed": {"options": {"optimization.lr": [[6e-4], [3e-4]]}}}, "from a.pt, optimization.lr [0.0006] → [0.0003]"),
        ({"kind": "loss_scale", "before": 128.0, "now": 64.0}, "loss scale 128.0 → 64.0"),
        ({"kind": "spike", "of": "loss", "value": 8.6, "z": None, "policy": "skip", "action": "skipped"}, "loss 8.6, skipped"),
        ({"kind": "rewind", "from": 330, "to": 310, "skipped_updates": 1, "lr_factor": 0.5}, "from update 330 to 310, 1 update skipped, learning rate × 0.5"),
        ({"kind": "signal", "name": "SIGTERM"}, "SIGTERM"),
        ({"kind": "note", "author": "ada", "text": "We wait."}, "ada: We wait."),
        ({"kind": "end", "reason": "finished", "seconds": 87.8}, "finished, 87.8 s"),
        ({"kind": "of a later version", "time": 1.0, "start": 0, "node": "n1"}, "node n1"),
        ({"kind": "save"}, ""),
    ],
)  # fmt: skip
def test_an_event_is_told_in_a_phrase(event: Dict[str, Any], text: str) -> None:
    assert told(event) == text
