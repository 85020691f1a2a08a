"""How a run ended, as its ledger tells it."""

from unittest.mock import Mock

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.recorder import told


@pytest.mark.parametrize(
    ("error", "reason", "is_refusal"),
    [
        (UserError("`--lr` must be above 0."), "`--lr` must be above 0.", True),
        (
            AssertionError("Must specify batch size"),
            "AssertionError: Must specify batch size",
            True,
        ),
        (RuntimeError("a bug"), "RuntimeError: a bug", False),
    ],
)
def test_what_was_asked_for_wrongly_is_a_refusal(
    error: Exception, reason: str, is_refusal: bool
) -> None:
    recorder = Mock()
    assert told(recorder, error) == reason
    assert recorder.refused.called == is_refusal
