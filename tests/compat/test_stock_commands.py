"""fairseq's own commands, on its own task and model, run clean on this Python, torch and NumPy.

No component of ours takes part: only the start-up hook. Every command must end well and print no
warning and no traceback.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LM = ["--task", "language_modeling"]
TRAIN = [
    *LM,
    "--arch",
    "transformer_lm_gpt2_tiny",
    "--tokens-per-sample",
    "32",
    "--batch-size",
    "4",
]
TRAIN += [
    "--optimizer",
    "adam",
    "--lr",
    "1e-3",
    "--cpu",
    "--log-format",
    "simple",
    "--num-workers",
    "2",
]
HYDRA_CONFIG = """# @package _group_
common: {cpu: true, log_format: simple}
checkpoint: {no_save: true}
task: {_name: language_modeling, data: DATA, tokens_per_sample: 32}
dataset: {batch_size: 4, num_workers: 1}
criterion: {_name: cross_entropy}
optimization: {max_update: 2, lr: [0.001]}
optimizer: {_name: adam}
lr_scheduler: {_name: fixed}
model: {_name: transformer_lm, decoder_layers: 1, decoder_embed_dim: 8, decoder_attention_heads: 2, decoder_ffn_embed_dim: 8}
"""


def stock(name: str, *arguments: object, cwd: Path, text: str = "") -> str:
    """Run ``fairseq-<name>`` and return what it printed."""
    done = subprocess.run(
        [Path(sys.executable).with_name(f"fairseq-{name}"), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    for noise in ("Warning", "Traceback", "[Hydra plugins scanner]", "tensorboardX"):
        assert noise not in output, output
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder and a checkpoint trained for four updates, resumed after the second."""
    folder = tmp_path_factory.mktemp("stock")
    lines = [f"the {noun} is {size}\n" for noun in ("cat", "dog", "owl") for size in ("big", "old")]
    (folder / "text").write_text("".join([*lines, "\n"]) * 20)  # with empty lines
    splits = [part for name in ("train", "valid", "test") for part in (f"--{name}pref", "text")]
    stock("preprocess", "--only-source", *splits, "--destdir", "data", "--workers", 2, cwd=folder)
    stock("train", "data", *TRAIN, "--max-update", 2, "--save-dir", "run", cwd=folder)
    output = stock("train", "data", *TRAIN, "--max-update", 4, "--save-dir", "run", cwd=folder)
    assert "Loaded checkpoint run/checkpoint_last.pt" in output
    return folder


def test_its_checkpoint_is_plain_data(folder: Path) -> None:
    code = "import torch; print(sorted(torch.load('run/checkpoint_last.pt', weights_only=True)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "METASEQ_PLUGIN_COMPAT": "0"},
        capture_output=True,
        text=True,
    )
    assert "'model'" in done.stdout, done.stderr


def test_validate(folder: Path) -> None:
    output = stock(
        "validate",
        "data",
        *LM,
        "--path",
        "run/checkpoint_last.pt",
        "--cpu",
        "--batch-size",
        4,
        cwd=folder,
    )
    assert "ppl" in output


def test_eval_lm(folder: Path) -> None:
    output = stock(
        "eval-lm",
        "data",
        "--path",
        "run/checkpoint_last.pt",
        "--cpu",
        "--batch-size",
        4,
        "--tokens-per-sample",
        32,
        "--context-window",
        8,
        cwd=folder,
    )
    assert "Perplexity" in output


def test_generate(folder: Path) -> None:
    output = stock(
        "generate",
        "data",
        *LM,
        "--path",
        "run/checkpoint_last.pt",
        "--cpu",
        "--batch-size",
        4,
        "--max-len-b",
        8,
        "--sample-break-mode",
        "eos",
        cwd=folder,
    )
    assert "\nH-0\t" in output


@pytest.mark.parametrize(
    "options", ["--beam 2 --no-repeat-ngram-size 2", "--beam 1 --sampling --sampling-topp 0.9"]
)
def test_interactive(folder: Path, options: str) -> None:
    output = stock(
        "interactive",
        "data",
        *LM,
        "--path",
        "run/checkpoint_last.pt",
        "--cpu",
        "--max-len-b",
        8,
        *options.split(),
        cwd=folder,
        text="the cat\n",
    )
    assert "\nH-0\t" in output


def test_hydra_train(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "configs/lm.yaml").write_text(HYDRA_CONFIG.replace("DATA", str(folder / "data")))
    stock("hydra-train", "--config-dir", folder / "configs", "--config-name", "lm", cwd=folder)
    logs = [path.read_text() for path in folder.glob("outputs/**/hydra_train.log")]
    assert any("done training" in log for log in logs)
