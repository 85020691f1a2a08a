"""Every stock command with the plugin, on one tiny run, their figures held against each other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
import torch

from metaseq_plugin import cli
from tests.fairseq_runs import Ended, run_fairseq, train, write_data

UPDATES = 4


class Trained(NamedTuple):
    data: Path
    save_dir: Path
    ended: Ended

    @property
    def checkpoint(self) -> Path:
        return self.save_dir / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    data = write_data(folder / "data")
    ended = train(data, folder / "run", "--max-update", UPDATES, "--log-format", "json")
    assert ended.status == 0, ended.output
    return Trained(data, folder / "run", ended)


def run(command: str, trained: Trained, log_dir: Path, *options: object, stdin: str = "") -> Ended:
    ended = run_fairseq(
        command, trained.data, "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling",
        "--cpu", "--path", trained.checkpoint, "--no-progress-bar", *options,
        log_dir=log_dir, stdin=stdin,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    return ended


def valid_loss(output: str) -> float:
    """Of the last validation in a JSON log, in bits."""
    last = [line for line in output.splitlines() if "| INFO | valid | {" in line][-1]
    return float(json.loads(last.split("| valid | ")[1])["valid_loss"])


def test_validate_repeats_what_training_logged(trained: Trained, tmp_path: Path) -> None:
    ended = run("validate", trained, tmp_path, "--batch-size", 4, "--log-format", "json")
    assert valid_loss(ended.output) == valid_loss(trained.ended.output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "options", "name"),
    [
        ("hf", (), ""),
        ("metaseq", (), "reshard.pt"),
        ("metaseq", ("--model-parallel-size", "2", "--num-shards", "2"), "reshard.pt"),
        ("fairseq", None, ""),  # a run folder
    ],
)
def test_path_may_be_whatever_convert_reads(
    trained: Trained, tmp_path: Path, to: str, options: Optional[tuple[str, ...]], name: str
) -> None:
    folder = trained.save_dir
    if options is not None:
        folder = tmp_path / "converted"
        arguments = [str(trained.checkpoint), str(folder), "--to", to, "--data", str(trained.data)]
        assert cli.main(["convert", *arguments, *options]) == 0
    words = {"stdin": "w5 w6 w7\nw9\n"}
    first, second = (
        run("interactive", trained, tmp_path, "--beam", 1, "--max-len-b", 8, *path, **words).output
        for path in ((), ("--path", folder / name))
    )
    written = re.findall(r"^[HP]-.*$", first, re.MULTILINE)
    assert len(written) == 4
    assert re.findall(r"^[HP]-.*$", second, re.MULTILINE) == written


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 64])  # with 64 the second rank has no batch at all
def test_validate_on_two_ranks_repeats_it_too(trained: Trained, batch_size: int) -> None:
    folder = Path(sys.executable).parent
    done = subprocess.run(
        [folder / "torchrun", "--nproc_per_node", "2", folder / "fairseq-validate", trained.data,
         "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu",
         "--path", trained.checkpoint, "--no-progress-bar", "--distributed-backend", "gloo",
         "--batch-size", str(batch_size), "--log-format", "json"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert valid_loss(done.stdout + done.stderr) == valid_loss(trained.ended.output)


def test_trained_with_compile_needs_no_compiler_afterwards(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(trained.checkpoint)
    state["cfg"]["model"]["compile"] = True
    torch.save(state, tmp_path / "checkpoint_last.pt")
    monkeypatch.setenv("PATH", str(tmp_path))
    compiled = trained._replace(save_dir=tmp_path)
    ended = run("validate", compiled, tmp_path, "--batch-size", 4, "--log-format", "json")
    assert valid_loss(ended.output) == valid_loss(trained.ended.output)


def test_eval_lm_gives_the_same_loss(trained: Trained, tmp_path: Path) -> None:
    ended = run("eval-lm", trained, tmp_path, "--gen-subset", "valid", "--batch-size", 4)
    losses = re.findall(r"Loss \(base 2\): ([0-9.]+)", ended.output)
    assert float(losses[-1]) == pytest.approx(valid_loss(trained.ended.output), abs=1e-3)


def test_eval_lm_cuts_blocks_to_the_model(trained: Trained, tmp_path: Path) -> None:
    """The default --tokens-per-sample, 2048, is longer than this model's input."""
    ended = train(trained.data, tmp_path / "run", "--max-update", 1, "--decoder-max-positions", 32)
    assert ended.status == 0, ended.output
    short = trained._replace(save_dir=tmp_path / "run")
    ended = run("eval-lm", short, tmp_path, "--gen-subset", "valid", "--batch-size", 4)
    (loss,) = re.findall(r"Loss \(base 2\): ([0-9.]+)", ended.output)
    assert float(loss) > 1


def test_generate_writes_on_every_document(trained: Trained, tmp_path: Path) -> None:
    ended = run(
        "generate", trained, tmp_path, "--gen-subset", "valid", "--batch-size", 2,
        "--prefix-size", 3, "--beam", 2, "--max-len-b", 5, "--sample-break-mode", "eos",
    )  # fmt: skip
    written = re.findall(r"^H-(\d+)\t(-?[0-9.]+)\t(.*)$", ended.output, re.MULTILINE)
    assert sorted({int(number) for number, _, _ in written}) == list(range(6))


def test_generate_scores_references(trained: Trained, tmp_path: Path) -> None:
    ended = run(
        "generate", trained, tmp_path, "--gen-subset", "valid", "--batch-size", 2,
        "--score-reference", "--sample-break-mode", "eos",
    )  # fmt: skip
    scores = [
        float(score)
        for line in re.findall(r"^P-\d+\t(.*)$", ended.output, re.MULTILINE)
        for score in line.split()
    ]
    ended = run("validate", trained, tmp_path, "--batch-size", 4, "--log-format", "json",
                "--sample-break-mode", "eos")  # fmt: skip
    assert -sum(scores) / len(scores) == pytest.approx(valid_loss(ended.output), abs=2e-3)


def test_interactive_continues_the_prompt(trained: Trained, tmp_path: Path) -> None:
    ended = run("interactive", trained, tmp_path, "--beam", 1, "--max-len-b", 4, "--min-len", 4,
                stdin="w1 w2\nw3\n")  # fmt: skip
    written = re.findall(r"^D-\d+\t\S+\t(.*)$", ended.output, re.MULTILINE)
    first, second = (line.split() for line in written)
    assert first[:2] == ["w1", "w2"]
    assert (len(first), len(second)) == (2 + 4, 1 + 4)


def test_hydra_train_equals_train(trained: Trained, tmp_path: Path) -> None:
    ended = run_fairseq(
        "hydra-train", f"hydra.run.dir={tmp_path}", "common.user_dir=metaseq_plugin",
        "common.cpu=true", "common.log_format=json", "common.no_progress_bar=true",
        "task=opt_language_modeling", f"task.data={trained.data}", "task.tokens_per_sample=32",
        "model=opt", "model.decoder_layers=2", "model.decoder_embed_dim=16",
        "model.decoder_attention_heads=2", "criterion=chunked_cross_entropy", "optimizer=adamw",
        "optimization.lr=[0.01]", "optimization.clip_norm=1.0", "lr_scheduler=fixed",
        f"optimization.max_update={UPDATES}", "dataset.batch_size=4",
        f"checkpoint.save_dir={tmp_path}/run",
        log_dir=tmp_path,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    ours = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)["model"]
    theirs = torch.load(trained.checkpoint, weights_only=True)["model"]
    for name, tensor in theirs.items():
        assert torch.equal(tensor, ours[name]), name


def test_hydra_knows_the_sizes(trained: Trained, tmp_path: Path) -> None:
    ended = run_fairseq(
        "hydra-train", f"hydra.run.dir={tmp_path}", "common.user_dir=metaseq_plugin",
        "common.cpu=true", "task=opt_language_modeling", f"task.data={trained.data}",
        "task.tokens_per_sample=32", "model=opt_8m", "criterion=chunked_cross_entropy",
        "optimizer=adamw", "lr_scheduler=fixed", "optimization.max_update=1",
        "dataset.batch_size=4", f"checkpoint.save_dir={tmp_path}/run",
        log_dir=tmp_path,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    model = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)["model"]
    assert model["decoder.layers.3.fc1.weight"].shape == (512, 128)


@pytest.mark.parametrize("mode", ["--bf16", "--memory-efficient-bf16"])
def test_sixteen_bits_train_on_the_cpu(trained: Trained, tmp_path: Path, mode: str) -> None:
    ended = train(trained.data, tmp_path, "--max-update", 2, "--disable-validation", mode)
    assert ended.status == 0, ended.output


def test_preprocess_makes_data_to_train_on(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three\nthree two one\n" * 20)
    ended = run_fairseq(
        "preprocess", "--only-source", "--trainpref", text, "--validpref", text,
        "--destdir", tmp_path / "data", log_dir=tmp_path,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    assert train(tmp_path / "data", tmp_path / "run", "--max-update", 1).status == 0
