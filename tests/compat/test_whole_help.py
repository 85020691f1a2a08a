"""``--help`` knows the options and defaults of the task, arch, criterion and optimizer beside it."""

from pathlib import Path

import pytest

from tests.fairseq_runs import run_fairseq

OURS = ("--user-dir", "metaseq_plugin", "--task", "opt_language_modeling")
TRAIN = (*OURS, "--criterion", "chunked_cross_entropy", "--optimizer", "adamw")
STOCK = ("--task", "language_modeling", "--arch", "transformer_lm_gpt2_medium")


def help_of(folder: Path, command: str, *options: str) -> str:
    """What is printed, its white space made single."""
    ended = run_fairseq(command, *options, log_dir=folder)
    assert ended.status == 0, ended.output
    assert "Traceback" not in ended.output
    return " ".join(ended.output.split())


@pytest.mark.parametrize("place", ["first", "last"])
def test_the_options_and_defaults_of_the_choice_are_shown(tmp_path: Path, place: str) -> None:
    options = (*TRAIN, "--arch", "opt_1.3b")
    shown = help_of(
        tmp_path, "train", *(("-h", *options) if place == "first" else (*options, "--help"))
    )
    for said in (
        "--tokens-per-sample TOKENS_PER_SAMPLE longest block in tokens; OPT's is 2048 (default: 2048)",
        "--decoder-layers DECODER_LAYERS number of decoder layers (default: 24)",
        "--decoder-embed-dim DECODER_EMBED_DIM model dimension D, a multiple of the heads (default: 2048)",
        "inner dimension F of the feed-forward block (default: 8192)",
        "probability of dropping a block's output element (default: 0.1)",
        "but 512 to 4096 (default: 0)",
        "decay rates of the means of the gradient and of its square (default: 0.9,0.95)",
        "path to save checkpoints (default: checkpoints)",
        "`metaseq help train` shows the options of metaseq-plugin alone.",
    ):
        assert said in shown


def test_a_model_of_fairseqs_shows_its_own(tmp_path: Path) -> None:
    shown = help_of(tmp_path, "train", *STOCK, "--optimizer", "adam", "--help")
    assert "--decoder-layers DECODER_LAYERS num decoder layers (default: 36)" in shown
    assert "epsilon for Adam optimizer (default: 1e-08)" in shown
    assert "--loss-chunk-tokens" not in shown


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("train", (), "--task TASK task (default: translation)"),
        ("train", OURS, "--tokens-per-sample"),
        ("validate", OURS, "--tokens-per-sample"),
        ("interactive", (*OURS, "--bpe", "opt_bpe"), "--opt-bpe-merges"),
        ("eval-lm", OURS, "--context-window"),
    ],
)
def test_help_without_an_arch_ends_well(
    tmp_path: Path, command: str, options: tuple[str, ...], said: str
) -> None:
    assert said in help_of(tmp_path, command, *options, "--help")
