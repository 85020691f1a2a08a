"""Wrong uses of the stock commands: one sentence, exit status 2, no traceback, nothing half-written."""

import os
import re
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from tests.fairseq_runs import (
    TINY,
    Ended,
    run_fairseq,
    train,
    write_data,
    write_dictionary,
    write_split,
)


class Places(NamedTuple):
    """What wrong uses are made of: good data, a good checkpoint, and a folder for the wrong ones."""

    data: Path
    checkpoint: Path
    scratch: Path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Places:
    folder = tmp_path_factory.mktemp("good")
    data = write_data(folder / "data")
    ended = train(data, folder / "run", "--max-update", 2)
    assert ended.status == 0, ended.output
    return Places(data, folder / "run" / "checkpoint_last.pt", folder)


@pytest.fixture
def places(good: Places, tmp_path: Path) -> Places:
    return good._replace(scratch=tmp_path)


def refused(ended: Ended, command: str, sentence: str) -> None:
    assert ended.status == 2, ended.output
    assert "Traceback" not in ended.output
    assert re.match(rf"fairseq-{command}: error: .*{sentence}", ended.last_line), ended.last_line
    assert ended.last_line.endswith(".")


# fmt: off
# name -> (options that go wrong, given the places; what the sentence says)
TRAIN: dict[str, tuple[Callable[[Places], tuple], str]] = {
    "arch unknown": (lambda p: ("--arch", "opt_9b"), "`--arch` must be one of its registered names, but is opt_9b"),
    "task unknown": (lambda p: ("--task", "opt_modeling"), "`--task` must be .* but is opt_modeling. Set for example opt_language_modeling"),
    "criterion unknown": (lambda p: ("--criterion", "chunky"), "`--criterion` must be"),
    "optimizer unknown": (lambda p: ("--optimizer", "adamx"), "`--optimizer` must be"),
    "user-dir missing": (lambda p: ("--user-dir", "no/metaseq_plugin"), "`--user-dir` must name the plugin's folder"),
    "option unknown": (lambda p: ("--layers", "3"), "Unrecognized arguments: --layers 3"),
    "option of another type": (lambda p: ("--decoder-layers", "two"), "`--decoder-layers` must be of type int, but is 'two'"),
    "heads do not divide": (lambda p: ("--decoder-attention-heads", "3"), r"must divide `--decoder-embed-dim` \(16\), but is 3"),
    "no layers": (lambda p: ("--decoder-layers", "0"), "`--decoder-layers` must be at least 1, but is 0"),
    "word embeddings without dimension": (lambda p: ("--decoder-word-embed-dim", "-3"), "`--decoder-word-embed-dim` must be at least 1, but is -3"),
    "dropout of 1": (lambda p: ("--dropout", "1"), r"`--dropout` must be in \[0, 1\), but is 1.0"),
    "two 16-bit types": (lambda p: ("--fp16", "--bf16"), "`--fp16` must be left out with --bf16, but both are set"),
    "attention dropout negative": (lambda p: ("--attention-dropout", "-0.1"), "`--attention-dropout` must be in"),
    "initial weights without spread": (lambda p: ("--init-std", "0"), "`--init-std` must be positive, but is 0.0"),
    "layers without checkpointing": (lambda p: ("--checkpoint-layers", 1), "`--checkpoint-layers` must come with"),
    "recompute without checkpointing": (lambda p: ("--recompute", "selective"), "`--recompute` must come with"),
    "more layers than there are": (lambda p: ("--checkpoint-activations", "--checkpoint-layers", 99), "`--checkpoint-layers` must be from 1 to"),
    "selective and offloaded": (lambda p: ("--checkpoint-activations", "--offload-activations", "--recompute", "selective"), "`--recompute` must be whole with"),
    "selective and compiled": (lambda p: ("--checkpoint-activations", "--compile", "--recompute", "selective"), "`--recompute` must be whole with --compile"),
    "offload without checkpointing": (lambda p: ("--offload-activations",), "`--offload-activations` must come with"),
    "block of no token": (lambda p: ("--tokens-per-sample", "0"), "`--tokens-per-sample` must be at least 1, but is 0"),
    "block longer than the model": (lambda p: ("--decoder-max-positions", "31"), r"`--tokens-per-sample` must be at most .* \(31\), but is 32"),
    "break mode unknown": (lambda p: ("--sample-break-mode", "document"), "`--sample-break-mode` must be"),
    "betas out of range": (lambda p: ("--adam-betas", "(0.9, 1.5)"), r"`--adam-betas` must be two numbers in \[0, 1\)"),
    "weight decay negative": (lambda p: ("--weight-decay", "-1"), "`--weight-decay` must be at least 0, but is -1"),
    "chunk negative": (lambda p: ("--loss-chunk-tokens", "-5"), "`--loss-chunk-tokens` must be at least 0, but is -5"),
    "save folder under a file": (lambda p: ("--save-dir", p.data / "dict.txt" / "run"), "`--save-dir` must be a folder that can be written"),
    "restore file missing": (lambda p: ("--restore-file", p.scratch / "none.pt"), "`--restore-file` must name a checkpoint, but .*none.pt does not exist"),
    "finetune from nothing": (lambda p: ("--finetune-from-model", p.scratch / "none.pt"), "`--finetune-from-model` must name a checkpoint"),
    "checkpoint truncated": (lambda p: ("--finetune-from-model", damaged(p, lambda b: b[: len(b) // 2])), "damaged.pt must be a whole checkpoint"),
    "checkpoint empty": (lambda p: ("--finetune-from-model", damaged(p, lambda b: b"")), "damaged.pt must be a whole checkpoint"),
    "checkpoint is text": (lambda p: ("--finetune-from-model", damaged(p, lambda b: b"hello")), "damaged.pt must be a whole checkpoint"),
    "checkpoint of another size": (lambda p: ("--finetune-from-model", p.checkpoint, "--decoder-embed-dim", "32"), "--decoder-embed-dim 32 instead of 16, .* Set --arch opt --decoder-layers 2 --decoder-embed-dim 16"),
    "checkpoint of another depth": (lambda p: ("--finetune-from-model", p.checkpoint, "--decoder-layers", "3"), "has --decoder-layers 3 instead of 2. Set --arch opt --decoder-layers 2"),
    "checkpoint of another optimizer": (lambda p: ("--restore-file", p.checkpoint, "--optimizer", "adam"), r"The checkpoint's Optimizer must be this run's \(FairseqAdam\), but is FairseqAdamW"),
    "validation split missing": (lambda p: ("--valid-subset", "valid2"), "must hold valid2.bin and valid2.idx, but .* holds train, valid"),
}
# fmt: on


def damaged(places: Places, change: Callable[[bytes], bytes]) -> Path:
    path = places.scratch / "damaged.pt"
    path.write_bytes(change(places.checkpoint.read_bytes()))
    return path


@pytest.mark.parametrize("name", TRAIN)
def test_train(places: Places, name: str) -> None:
    options, sentence = TRAIN[name]
    save_dir = places.scratch / "run"
    ended = train(places.data, save_dir, "--max-update", 1, *options(places))
    refused(ended, "train", sentence)
    assert not list(save_dir.glob("*.pt*"))


def no_dictionary(folder: Path) -> None:
    (folder / "dict.txt").unlink()


def smaller_dictionary(folder: Path) -> None:
    write_dictionary(folder, 24)


def no_documents(folder: Path) -> None:
    write_split(folder, "train", [])


def truncated_split(folder: Path) -> None:
    path = folder / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])


def no_train_split(folder: Path) -> None:
    (folder / "train.idx").unlink()


def index_of_another_kind(folder: Path) -> None:
    (folder / "train.idx").write_bytes(b"TNTIDX" + bytes(10))


DATA: dict[Callable[[Path], None], str] = {
    no_dictionary: "`DATA` must hold dict.txt, but",
    smaller_dictionary: "must be below the 24 types of its dict.txt",
    no_documents: "train.bin must hold at least one token, but is empty",
    truncated_split: "train.bin must have the .* bytes that its index promises",
    index_of_another_kind: "train.idx must be the index of a memory-mapped split",
    no_train_split: "must hold train.bin and train.idx, but .* holds valid",
}


@pytest.mark.parametrize("spoil", DATA, ids=lambda spoil: spoil.__name__)
def test_data(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    data = write_data(tmp_path / "data")
    spoil(data)
    ended = train(data, tmp_path / "run", "--max-update", 1)
    refused(ended, "train", DATA[spoil])
    assert not list((tmp_path / "run").glob("*.pt*"))


def test_data_folder_missing(tmp_path: Path) -> None:
    ended = train(tmp_path / "nowhere", tmp_path / "run", "--max-update", 1)
    refused(ended, "train", "`DATA` must be a folder, but .*nowhere is not")


def test_no_batch_size(places: Places) -> None:
    options = list(TINY)
    del options[options.index("--batch-size") : options.index("--batch-size") + 2]
    ended = run_fairseq("train", places.data, *options, log_dir=places.scratch)
    refused(ended, "train", "`--batch-size` or `--max-tokens` must be given")


def test_compile_without_compiler(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(places.scratch))
    ended = train(places.data, places.scratch / "run", "--max-update", 1, "--compile")
    refused(ended, "train", r"`--compile` must find a C\+\+ compiler")


@pytest.mark.parametrize("command", ["validate", "eval-lm", "generate", "interactive"])
@pytest.mark.parametrize("what", ["missing", "truncated", "other dictionary"])
def test_path(places: Places, command: str, what: str) -> None:
    data, path = places.data, places.scratch / "none.pt"
    sentence = "`--path` must name a checkpoint, but .*none.pt does not exist"
    if what == "truncated":
        path, sentence = (
            damaged(places, lambda b: b[:1000]),
            "damaged.pt must be a whole checkpoint",
        )
    if what == "other dictionary":
        data, path = write_data(places.scratch / "other", vocab_size=64), places.checkpoint
        sentence = r"`decoder.embed_tokens.weight` must have shape \(64, 16\), but is \(40, 16\)"
    ended = run_fairseq(
        command, data, "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu",
        "--path", path, *(() if command == "interactive" else ("--batch-size", 2)),
        log_dir=places.scratch, stdin="w1 w2\n",
    )  # fmt: skip
    refused(ended, command, sentence)


# fmt: off
INTERACTIVE: dict[str, tuple[tuple[Any, ...], str, str]] = {
    "prompt too long": ((), "w1 " * 2100, "must have at most 2048 tokens .* has 2101"),
    "temperature negative": (("--sampling", "--beam", "1", "--temperature", "-1"), "w1", "`--temperature` must"),
    "temperature without sampling": (("--beam", "1", "--temperature", "0.7"), "w1", "`--temperature` must come with --sampling"),
    "top-p of 2": (("--sampling", "--beam", "1", "--sampling-topp", "2"), "w1", "`--sampling-topp` must"),
    "beam of 0": (("--beam", "0", "--nbest", "0"), "w1", "`--beam` must"),
    "more results than beams": (("--beam", "2", "--nbest", "3"), "w1", "`--nbest` must"),
    "min beyond max": (("--min-len", "9", "--max-len-b", "3"), "w1", "`--min-len` must"),
    "sampling with unequal nbest": (("--sampling", "--beam", "2"), "w1", "`--nbest` must equal `--beam`"),
    "bpe unknown": (("--bpe", "opt_bpf"), "w1", "`--bpe` must be one of .* opt_bpe"),
}
# fmt: on


@pytest.mark.parametrize("name", INTERACTIVE)
def test_interactive(places: Places, name: str) -> None:
    options, typed, sentence = INTERACTIVE[name]
    ended = run_fairseq(
        "interactive", places.data, "--user-dir", "metaseq_plugin", "--task",
        "opt_language_modeling", "--cpu", "--path", places.checkpoint, *options,
        log_dir=places.scratch, stdin=f"{typed}\n",
    )  # fmt: skip
    refused(ended, "interactive", sentence)
