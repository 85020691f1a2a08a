"""The meters of a checkpoint: those of fairseq's log pass, what fairseq could not count on with is refused."""

from typing import Any

import pytest
import torch
from fairseq.logging import metrics

from metaseq_plugin.checkpoint.meters import check_meters
from metaseq_plugin.compat.errors import UserError


def test_what_fairseq_saves_passes() -> None:
    with metrics.aggregate("of_this_test", new_root=True) as root:
        metrics.log_scalar("loss", torch.tensor(2.0), 3, round=3)
        metrics.log_scalar_sum("ntokens", 5)
        metrics.log_start_time("train_wall")
        metrics.log_stop_time("train_wall")
        metrics.log_speed("wps", 4)
        check_meters({"train": root.state_dict()}, "a file")
    assert {kind for _, _, kind, _ in root.state_dict()} == {
        "AverageMeter", "SumMeter", "StopwatchMeter", "TimeMeter",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "state", "place"),
    [
        ("TimeMeter", {"init": 1.0, "n": None, "round": 1}, "3.n"),
        ("TimeMeter", {"init": 1.0, "round": 1}, "3.n"),
        ("SumMeter", {"sum": "much", "round": None}, "3.sum"),
        ("SumMeter", {"sum": torch.zeros(2), "round": None}, "3.sum"),
        ("AverageMeter", {"val": None, "sum": 1, "count": [], "round": None}, "3.count"),
        ("StopwatchMeter", {"sum": 1.0, "n": 1, "round": "two"}, "3.round"),
        ("safe_round", {}, "2"),
    ],
)
def test_what_could_not_count_on_is_refused(kind: str, state: dict[str, Any], place: str) -> None:
    with pytest.raises(UserError) as raised:
        check_meters({"train": [(1, "x", kind, state)]}, "a file")
    assert f"`extra_state.metrics.train.0.{place}`" in str(raised.value)
