"""Which exceptions are a user's mistake, and the sentence that they end in."""

import signal
from collections.abc import Iterator

import pytest
from torch.multiprocessing import ProcessRaisedException

from metaseq_plugin.compat.door import guarded, sentence_of, suggestions
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


SIZES = ["opt", "opt_8m", "opt_125m", "opt_350m", "opt_760m", "opt_1.3b", "opt_2.7b", "opt_6.7b",
         "opt_13b", "opt_30b", "opt_66b", "opt_175b"]  # fmt: skip
OTHERS = [f"transformer_{number}" for number in range(20)]


@pytest.mark.parametrize("value", ["opt_9b", "opt125m", "OPT_1.3B", "opt-175b"])
def test_a_wrong_size_is_answered_with_all_in_order(value: str) -> None:
    assert suggestions(value, [*OTHERS, *SIZES]) == SIZES


def test_of_a_large_family_only_the_nearest_are_named() -> None:
    assert suggestions("transformer_3x", [*OTHERS, *SIZES])[0] == "transformer_3"
    assert len(suggestions("transformer_3x", [*OTHERS, *SIZES])) == 3
    assert suggestions("zzz", [*OTHERS, *SIZES]) == OTHERS[:8]


@pytest.fixture
def sigint() -> Iterator[None]:
    """Puts back what SIGINT does."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("rank", "said"), [("0", "fairseq-train: interrupted\n"), ("1", "")])
def test_ctrl_c_is_said_once(
    rank: str,
    said: str,
    sigint: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def cli_main() -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as caught:
        guarded(cli_main, "fairseq-train")()
    assert caught.value.code == 130
    assert capsys.readouterr().err == said
