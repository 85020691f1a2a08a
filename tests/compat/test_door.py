"""Which exceptions are a user's mistake, and the sentence that they end in."""

from torch.multiprocessing import ProcessRaisedException

from metaseq_plugin.compat.door import sentence_of
from metaseq_plugin.compat.errors import UserError


def test_mistake_in_a_spawned_rank() -> None:
    """With several GPUs the exception of a rank arrives as text behind its traceback."""
    text = (
        "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n"
        f"  …\n{UserError.__module__}.UserError: `--lr` must be at least 0, but is -1. Set 6e-4.\n"
    )
    error = ProcessRaisedException(text, 1, 4711)
    assert sentence_of(error) == "`--lr` must be at least 0, but is -1. Set 6e-4."


def test_bug_in_a_spawned_rank_keeps_its_traceback() -> None:
    assert sentence_of(ProcessRaisedException("Traceback …\nValueError: bug\n", 0, 4711)) is None
