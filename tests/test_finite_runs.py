"""Runs whose numbers are not finite: one sentence and exit status 2, from whichever command meets them."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tasks.opt_language_modeling import OPTLanguageModelingTask
from tests.fairseq_runs import Ended, run_fairseq, train, write_data
from tests.rank_runs import train_ranks

EMBEDDING = "decoder.embed_tokens.weight"
NORM = "decoder.layer_norm.bias"
COMMANDS: dict[str, tuple[Any, ...]] = {
    "validate": ("--batch-size", 4),
    "eval-lm": ("--batch-size", 4, "--gen-subset", "valid"),
    "generate": ("--batch-size", 4, "--gen-subset", "valid", "--prefix-size", 2, "--beam", 2),
    "interactive": ("--beam", 1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``, and ``run`` with a good checkpoint."""
    made = tmp_path_factory.mktemp("finite")
    ended = train(
        write_data(made / "data"), made / "run", "--max-update", 1, "--disable-validation"
    )
    assert ended.status == 0, ended.output
    return made


def spoiled(folder: Path, numbers: dict[str, float], path: Path) -> Path:
    """The good checkpoint with tensors that hold one number only."""
    state = torch.load(folder / "run" / "checkpoint_last.pt")
    for name, number in numbers.items():
        state["model"][name].fill_(number)
    torch.save(state, path)
    return path


def run(command: str, folder: Path, path: Path, log_dir: Path, *options: Any) -> Ended:
    return run_fairseq(
        command, folder / "data", "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling",
        "--cpu", "--path", path, "--no-progress-bar", *options, log_dir=log_dir, stdin="w1 w2\n",
    )  # fmt: skip


def refused(ended: Ended, sentence: str) -> None:
    assert ended.status == 2, ended.output
    assert re.match(rf"fairseq-[a-z-]+: error: {sentence}.*\.$", ended.last_line), ended.output
    assert "Traceback" not in ended.output
    assert "norms: {" not in ended.output  # of fairseq's NanDetector


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_nan_are_named_when_they_are_loaded(
    folder: Path, tmp_path: Path, command: str
) -> None:
    path = spoiled(folder, {EMBEDDING: math.nan}, tmp_path / "nan.pt")
    ended = run(command, folder, path, tmp_path, *COMMANDS[command])
    refused(ended, f"The weights must be finite, but `{EMBEDDING}` holds nan. Use a checkpoint")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("validate", "The loss must be finite, but is (nan|inf). With --fp16, set --bf16"),
        ("eval-lm", "The scores of a text must be finite, but in float32 some are NaN or infinite"),
        ("generate", "The model's logits must be finite, but in float32 some are NaN or infinite"),
        (
            "interactive",
            "The model's logits must be finite, but in float32 some are NaN or infinite",
        ),
    ],
)
def test_weights_too_large_to_compute_with(
    folder: Path, tmp_path: Path, command: str, sentence: str
) -> None:
    """Each is finite; what follows from them is not."""
    path = spoiled(folder, {NORM: 3e38, EMBEDDING: 30.0}, tmp_path / "large.pt")
    refused(run(command, folder, path, tmp_path, *COMMANDS[command]), sentence)


def test_scores_of_references_are_looked_at_too(folder: Path, tmp_path: Path) -> None:
    path = spoiled(folder, {NORM: 3e38, EMBEDDING: 30.0}, tmp_path / "large.pt")
    ended = run("generate", folder, path, tmp_path, "--batch-size", 4, "--score-reference",
                "--gen-subset", "valid")  # fmt: skip
    refused(ended, "The scores of a text must be finite, but in float32")


@pytest.mark.parametrize("option", ["--finetune-from-model", "--restore-file"])
def test_training_does_not_start_from_nan(folder: Path, tmp_path: Path, option: str) -> None:
    path = spoiled(folder, {NORM: math.inf}, tmp_path / "inf.pt")
    ended = train(folder / "data", tmp_path / "run", option, path, "--max-update", 2)
    refused(ended, f"The weights must be finite, but `{NORM}` holds inf")


@pytest.mark.parametrize(
    ("precision", "name"), [((), "float32"), (("--bf16",), "bfloat16"), (("--memory-efficient-bf16",), "bfloat16")]
)  # fmt: skip
def test_a_run_that_diverges(
    folder: Path, tmp_path: Path, precision: tuple[str, ...], name: str
) -> None:
    ended = train(
        folder / "data", tmp_path / "run", "--max-update", 20, "--disable-validation", "--lr", "1e30", *precision
    )  # fmt: skip
    refused(
        ended,
        rf"`--lr` must let training converge, but is 1e\+30 at update 2, whose gradients are NaN or "
        rf"infinite in {name}. Lower --lr, raise --warmup-updates, or lower --clip-norm",
    )
    assert not list((tmp_path / "run").glob("*.pt*"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pytorch_ddp", "fully_sharded"])
def test_ranks_that_diverge_say_it_once(folder: Path, tmp_path: Path, backend: str) -> None:
    first, second = train_ranks(
        2, folder / "data", tmp_path / "run", "--max-update", 20, "--disable-validation", "--lr", "1e30",
        "--ddp-backend", backend,
    )  # fmt: skip
    refused(first, r"`--lr` must let training converge, but is 1e\+30 at update 2")
    assert second.status == 2, second.output
    assert "error:" not in second.output


def test_a_run_that_diverges_before_its_validation(folder: Path, tmp_path: Path) -> None:
    ended = train(folder / "data", tmp_path / "run", "--max-update", 1, "--lr", "1e30")
    refused(ended, "The loss must be finite, but is (nan|inf)")
    assert not list((tmp_path / "run").glob("*.pt*"))


def test_a_stock_model_keeps_fairseqs_report(folder: Path, tmp_path: Path) -> None:
    ended = run_fairseq(
        "train", folder / "data", "--task", "language_modeling", "--arch", "transformer_lm_gpt2_tiny", "--cpu",
        "--tokens-per-sample", 32, "--batch-size", 4, "--optimizer", "adam", "--lr", "1e30", "--max-update", 9,
        "--disable-validation", "--no-progress-bar", "--save-dir", tmp_path / "run", log_dir=tmp_path,
    )  # fmt: skip
    assert ended.status == 1
    assert "FloatingPointError: gradients are Nan/Inf" in ended.output


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_is_of_all_ranks_and_batches(loss: float) -> None:
    task = OPTLanguageModelingTask.__new__(OPTLanguageModelingTask)
    logs = [{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(loss)}]
    with pytest.raises(UserError, match=f"The loss must be finite, but is {loss}"):
        task.reduce_metrics(logs, None)
