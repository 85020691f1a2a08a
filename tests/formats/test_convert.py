"""``metaseq convert`` both ways: every bit kept, and the stock commands and transformers take it."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.data import Dictionary
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig

from metaseq_plugin.formats.hf.config import DEFAULT_VOCAB_SIZE, FIELDS, FIXED
from tests.fairseq_runs import TINY, run_fairseq, train, write_data
from tests.formats.folders import (
    TEXT,
    VOCAB_SIZE,
    assert_same_tensors,
    model_tensors,
    run_convert,
    write_hf,
    write_hf_bin,
    write_tokenizer,
)
from tests.opt_models import KINDS, tokens

TOLERANCE = 2e-5


class Run(NamedTuple):
    data: Path
    save_dir: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A stock run that stopped and was resumed."""
    folder = tmp_path_factory.mktemp("trained")
    run = Run(write_data(folder / "data"), folder / "run")
    for updates in (2, 4):
        ended = train(run.data, run.save_dir, "--max-update", updates)
        assert ended.status == 0, ended.output
    return run


def load_ours(path: Path) -> Any:
    models, _, task = load_model_ensemble_and_task([str(path)])
    return models[0].eval(), task


@torch.no_grad()
def assert_same_logits(ours: Any, theirs: Any, vocab_size: int = VOCAB_SIZE) -> None:
    ids = tokens(2, 20, vocab_size)
    torch.testing.assert_close(ours(ids)[0], theirs.eval()(ids).logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_from_hugging_face_and_back(tmp_path: Path, kind: str) -> None:
    theirs = write_hf(tmp_path / "hf", kind)
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    assert_same_logits(load_ours(tmp_path / "ours" / "checkpoint.pt")[0], theirs)
    run_convert(tmp_path / "ours", tmp_path / "back", "--to", "hf")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("hf", "back"))
    assert_same_tensors(after, before)
    for name in ("vocab.json", "merges.txt"):
        parse = json.loads if name == "vocab.json" else str.split
        assert parse((tmp_path / "back" / name).read_text()) == parse(
            (tmp_path / "hf" / name).read_text()
        )
    ignored = ("torch_dtype", "dtype", "transformers_version", "use_cache")
    old, new = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("hf", "back"))
    assert {k: v for k, v in old.items() if k not in ignored} == {
        k: v for k, v in new.items() if k not in ignored
    }


def test_from_fairseq_and_back(tmp_path: Path, trained: Run) -> None:
    run_convert(trained.save_dir, tmp_path / "hf", "--to", "hf")
    path = trained.save_dir / "checkpoint_best.pt"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert_same_logits(load_ours(path)[0], theirs, vocab_size=40)
    run_convert(tmp_path / "hf", tmp_path / "back", "--to", "fairseq")
    assert_same_tensors(model_tensors(tmp_path / "back" / "checkpoint.pt"), model_tensors(path))
    assert (tmp_path / "back" / "dict.txt").read_text() == (trained.data / "dict.txt").read_text()
    assert_same_logits(load_ours(tmp_path / "back" / "checkpoint.pt")[0], theirs, vocab_size=40)


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("shards", [1, 3])
def test_reads_torch_files(tmp_path: Path, shards: int, prefix: str) -> None:
    theirs = write_hf_bin(tmp_path / "hf", "350m", shards, prefix)
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    assert_same_logits(load_ours(tmp_path / "ours" / "checkpoint.pt")[0], theirs)


def test_reads_safetensors_shards_of_transformers(tmp_path: Path) -> None:
    theirs = write_hf(tmp_path / "hf", max_shard_size="30KB")
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 2
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    assert_same_logits(load_ours(tmp_path / "ours" / "checkpoint.pt")[0], theirs)


def test_writes_shards_for_transformers(tmp_path: Path) -> None:
    theirs = write_hf(tmp_path / "hf", "350m")
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    run_convert(tmp_path / "ours", tmp_path / "back", "--to", "hf", "--max-shard-size", "30KB")
    shards = sorted((tmp_path / "back").glob("model-*.safetensors"))
    assert len(shards) > 2
    held = [load_file(shard) for shard in shards]
    assert all(len(s) == 1 or sum(t.nbytes for t in s.values()) <= 30_000 for s in held)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert_same_tensors(loaded.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(tmp_path: Path, dtype: str) -> None:
    theirs = write_hf(tmp_path / "hf")
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq", "--dtype", dtype)
    run_convert(tmp_path / "ours", tmp_path / "back", "--to", "hf")  # keeps what it finds
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype="auto")
    expected = {n: t.to(getattr(torch, dtype)) for n, t in theirs.state_dict().items()}
    assert_same_tensors(loaded.state_dict(), expected)
    run_convert(tmp_path / "ours", tmp_path / "wide", "--to", "hf", "--dtype", "float32")
    wide = load_file(tmp_path / "wide" / "model.safetensors")
    assert_same_tensors(wide, {n: expected[n].float() for n in wide})


def test_tokenizer_has_the_same_ids_on_both_sides(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", tokenizer=False)
    reference = write_tokenizer(tmp_path / "hf")
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    dictionary = Dictionary.load(str(tmp_path / "ours" / "dict.txt"))
    assert len(dictionary) == VOCAB_SIZE
    assert all(dictionary.index(t) == i for t, i in reference.get_vocab().items())
    run_convert(tmp_path / "ours", tmp_path / "back", "--to", "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in TEXT:
        assert theirs(text)["input_ids"] == [2, *reference.encode(text).ids]
        assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == text


def test_tokenizer_json_is_read(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", tokenizer=False)
    tokenizer = write_tokenizer(tmp_path / "files")
    tokenizer.add_tokens(["<mine>", "two words"])
    tokenizer.save(str(tmp_path / "hf" / "tokenizer.json"))
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    lines = (tmp_path / "ours" / "dict.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines[279:]] == [
        "<mine>", "<symbol284>", "madeupword0000", "madeupword0001", "madeupword0002"
    ]  # fmt: skip
    merges = (tmp_path / "ours" / "merges.txt").read_text()
    assert merges == (tmp_path / "files" / "merges.txt").read_text()


def test_without_tokenizer_prompts_are_ids(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_hf(tmp_path / "hf", tokenizer=False)
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    assert "prompts are ids" in capsys.readouterr().out
    dictionary = Dictionary.load(str(tmp_path / "ours" / "dict.txt"))
    assert dictionary.index("77") == 77


def test_sentencepiece_is_copied(tmp_path: Path, trained: Run, capsys: Any) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "dict.txt").write_bytes((trained.data / "dict.txt").read_bytes())
    (data / "sentencepiece.model").write_bytes(b"pieces")
    run_convert(trained.save_dir, tmp_path / "hf", "--to", "hf", "--data", data)
    assert "dict.txt, sentencepiece.model copied" in capsys.readouterr().out
    run_convert(tmp_path / "hf", tmp_path / "back", "--to", "fairseq")
    assert (tmp_path / "back" / "sentencepiece.model").read_bytes() == b"pieces"


@pytest.mark.slow
def test_stock_commands_take_a_converted_checkpoint(tmp_path: Path, trained: Run) -> None:
    """Continue a prompt, finetune, and go on from it; the loss before the first update is the old."""
    run_convert(trained.save_dir, tmp_path / "hf", "--to", "hf")
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    path = tmp_path / "ours" / "checkpoint.pt"
    written = []
    for data, checkpoint in (
        (tmp_path / "ours", path),
        (trained.data, trained.save_dir / "checkpoint_best.pt"),
    ):
        ended = run_fairseq(
            "interactive", data, "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling",
            "--cpu", "--path", checkpoint, "--beam", "1", "--max-len-b", "6", "--min-len", "6",
            log_dir=tmp_path, stdin="w1 w2\nw3 w4 w5\n",
        )  # fmt: skip
        assert ended.status == 0, ended.output
        written.append(re.findall(r"^[HP]-\d+\t(.*)$", ended.output, re.MULTILINE))
    assert len(written[0]) == 4
    assert written[0] == written[1]
    for number, option in enumerate(("--finetune-from-model", "--restore-file")):
        ended = train(
            trained.data, tmp_path / f"run{number}", option, path, "--max-update", 1, "--lr", "0"
        )
        assert ended.status == 0, ended.output
        after = model_tensors(tmp_path / f"run{number}" / "checkpoint_last.pt")
        assert_same_tensors(after, model_tensors(path))


def test_checkpoints_of_stock_runs_load_safely(trained: Run) -> None:
    state = torch.load(trained.save_dir / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 4
    assert state["last_optimizer_state"]["state"]
    assert state["extra_state"]["train_iterator"]["epoch"] >= 1
    assert TINY  # the run was of this shape
    assert state["cfg"]["model"]["decoder_layers"] == 2


def test_converted_keys_are_those_of_fairseq(tmp_path: Path, trained: Run) -> None:
    write_hf(tmp_path / "hf")
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    ours = torch.load(tmp_path / "ours" / "checkpoint.pt", weights_only=True)
    theirs = torch.load(trained.save_dir / "checkpoint_last.pt", weights_only=True)
    assert ours.keys() == theirs.keys() - {"layout", "data_from_run"}
    assert ours["cfg"].keys() == theirs["cfg"].keys()
    assert ours["cfg"]["model"].keys() == theirs["cfg"]["model"].keys()
    assert ours["cfg"]["task"]["data"] == str(tmp_path / "ours")


def test_defaults_are_those_of_transformers() -> None:
    defaults = OPTConfig()
    assert defaults.vocab_size == DEFAULT_VOCAB_SIZE
    assert {name: value for name, (_, value) in FIELDS.items()} == {
        name: getattr(defaults, name) for name in FIELDS
    }
    assert {name: getattr(defaults, name) for name in FIXED} == FIXED


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf")
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    (tmp_path / "ours" / "model-00001-of-00002.safetensors").touch()
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq", "--overwrite")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "ours"]
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "checkpoint.pt", "dict.txt", "merges.txt", "vocab.json"
    ]  # fmt: skip
