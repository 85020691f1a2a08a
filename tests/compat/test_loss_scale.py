"""Gradients that overflow update after update end the run; now and then they do not."""

import pytest
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.loss_scale import MAX_SKIPPED_IN_A_ROW


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"min_loss_scale": 1e-4}, r"`--min-loss-scale` must .* \(0.0001\): 29 updates in a row"),
        ({"threshold": 0.5}, f"{MAX_SKIPPED_IN_A_ROW} updates in a row .* scale 0.5. Lower --lr"),
        ({"min_loss_scale": 0.0}, f"{MAX_SKIPPED_IN_A_ROW} updates in a row"),
    ],
)
def test_overflow_for_ever_ends(options: dict, sentence: str) -> None:
    scaler = DynamicLossScaler(**options)

    def overflow_for_ever() -> None:
        for _ in range(MAX_SKIPPED_IN_A_ROW):
            with pytest.raises(OverflowError):
                scaler.check_overflow(float("inf"))

    with pytest.raises(UserError, match=sentence):
        overflow_for_ever()


def test_overflow_now_and_then_does_not_end() -> None:
    scaler = DynamicLossScaler(threshold=0.5)
    for _ in range(MAX_SKIPPED_IN_A_ROW):
        for _ in range(3):
            with pytest.raises(OverflowError):
                scaler.check_overflow(float("nan"))
        scaler.check_overflow(1.0)
        scaler.update()
