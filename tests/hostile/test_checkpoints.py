"""Checkpoints from strangers, through every door that reads one: a sentence, or the model, and nothing else.

The doors run in this process, so that any other exception than a ``UserError`` is seen. A canary, a file that
the texts in a checkpoint would make, shows whether something of it was run.
"""

import argparse
import itertools
import os
import pickle
import random
import re
import resource
import time
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import fairseq
import pytest
import torch
from fairseq import checkpoint_utils

from metaseq_plugin.checkpoint.architecture import flags_of_start
from metaseq_plugin.checkpoint.reshard import reshard
from metaseq_plugin.compat.checkpoint_settings import EVALUATED, is_literal
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats import convert
from metaseq_plugin.formats.data_folder import data_folder_at
from metaseq_plugin.hub import OPT
from tests.fairseq_runs import TINY, run_fairseq, train, write_data
from tests.hostile.mutations import DROP, bytes_of, mutations, replaced

MOST_SECONDS, MOST_BYTES = 10, 500 * 2**20
SOURCE = "__import__('pathlib').Path({path!r}).touch()"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def sound(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    ended = train(data, folder, "--max-update", 2)
    assert ended.status == 0, ended.output
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def state(sound: Path) -> Dict[str, Any]:
    held: Dict[str, Any] = torch.load(sound)
    return held


def saved(state: Any, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "checkpoint_last.pt"
    torch.save(state, path)
    return path


def through_fairseq(path: Path) -> Any:
    return checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides={"seed": 1})


def through_convert(path: Path) -> None:
    target = path.parent / "converted"
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    convert.run(parser.parse_args([str(path), str(target), "--to", "metaseq", "--overwrite"]))


def through_reshard(path: Path) -> None:
    target = path.parent / f"resharded{len(list(path.parent.iterdir()))}"
    reshard(path, target, 2, 1)


def through_start(path: Path) -> None:
    flags_of_start(
        argparse.Namespace(
            restore_file=str(path),
            save_dir="",
            checkpoint_suffix="",
            continue_once=None,
            finetune_from_model=None,
        )
    )


DOORS: Dict[str, Callable[[Path], Any]] = {
    "fairseq": through_fairseq,
    "hub": OPT.from_pretrained,
    "convert": through_convert,
    "reshard": through_reshard,
    "start": through_start,
    "data": data_folder_at,
}


def outcome(door: Callable[[Path], Any], path: Path, name: str) -> str:
    """The sentence that ``door`` refuses ``path`` with, or "" where it reads it; nothing else may happen."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sentence = ""
    try:
        door(path)
    except UserError as error:
        sentence = str(error)
        assert sentence.isprintable() or "\n" in sentence, name
        assert len(sentence) < 5000, name
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    assert time.monotonic() - began < MOST_SECONDS, name
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MOST_BYTES, name
    return sentence


def every_place(state: Dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Mutations of every part of a checkpoint, more of the parts that are looked into deepest."""
    seed = random.Random(11)
    for under, count in (
        (("cfg", "model"), 50),
        (("cfg", "task"), 40),
        (("cfg",), 60),
        (("layout",), 50),
        (("optimizer_history",), 25),
        (("extra_state",), 40),
        (("last_optimizer_state",), 40),
        (("model",), 30),
        ((), 25),
    ):
        yield from mutations(state, seed, count, under)


def test_sound_file_passes_every_door(sound: Path, state: Dict[str, Any], tmp_path: Path) -> None:
    for name, door in DOORS.items():
        assert outcome(door, saved(state, tmp_path), name) == "", name


@pytest.mark.slow
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 6])
def test_mutated_checkpoints(state: Dict[str, Any], tmp_path: Path, step: int) -> None:
    """360 files, or every sixth, through one door after the other in turn."""
    doors = list(DOORS.values())
    refused = 0
    for number, (name, spoiled) in enumerate(itertools.islice(every_place(state), 0, None, step)):
        path = saved(spoiled, tmp_path / str(number))
        refused += bool(outcome(doors[number % len(doors)], path, name))
    assert refused > 100 // step


def test_damaged_files(sound: Path, tmp_path: Path) -> None:
    doors = list(DOORS.values())
    content = sound.read_bytes()
    for number, (name, spoiled) in enumerate(bytes_of(content, random.Random(5), 40)):
        path = tmp_path / str(number) / "checkpoint_last.pt"
        path.parent.mkdir()
        path.write_bytes(spoiled)
        sentence = outcome(doors[number % len(doors)], path, name)
        if name.startswith(("cut", "empty", "text", "zeros")):
            assert "must be a whole checkpoint, but cannot be read as one" in sentence, name


RUNS_IN_MODEL = {
    "fconv_lm": "decoder_layers",
    "fconv": "encoder_layers",
    "wav2vec2": "conv_feature_layers",
    "transformer_lm": "character_filters",
}


@pytest.mark.parametrize("arch", RUNS_IN_MODEL)
@pytest.mark.parametrize("door", [name for name in DOORS if name != "data"])
def test_settings_that_would_be_run(
    state: Dict[str, Any], tmp_path: Path, arch: str, door: str
) -> None:
    canary = tmp_path / "canary"
    text = SOURCE.format(path=str(canary))
    model = {"_name": arch, RUNS_IN_MODEL[arch]: text, "decoder_attention": text}
    path = saved(replaced(state, ("cfg", "model"), model), tmp_path / "held")
    sentence = outcome(DOORS[door], path, arch)
    assert "which fairseq runs as Python" in sentence or "is of" in sentence, sentence
    assert not canary.exists()


@pytest.mark.parametrize("command", ["validate", "interactive", "eval-lm", "train"])
def test_commands_run_nothing(
    state: Dict[str, Any], data: Path, tmp_path: Path, command: str
) -> None:
    canary = tmp_path / "canary"
    model = {"_name": "fconv_lm", "decoder_layers": SOURCE.format(path=str(canary))}
    path = saved(replaced(state, ("cfg", "model"), model), tmp_path / "held")
    common = ("--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu")
    given = {
        "validate": (*common, "--path", path, "--batch-size", 2),
        "interactive": (*common, "--path", path),
        "eval-lm": (*common, "--path", path, "--gen-subset", "valid"),
        "train": (*TINY, "--finetune-from-model", path, "--save-dir", tmp_path / "run", "--max-update", 1,
                  "--criterion", "chunked_cross_entropy", "--optimizer", "adamw", "--lr", "0.1"),
    }  # fmt: skip
    ended = run_fairseq(command, data, *given[command], log_dir=tmp_path)
    assert ended.status == 2, ended.output
    assert "fconv_lm" in ended.last_line or "runs as Python" in ended.last_line, ended.output
    assert "Traceback" not in ended.output
    assert not canary.exists()


def test_our_task_builds_only_opt(state: Dict[str, Any], tmp_path: Path) -> None:
    model = {"_name": "transformer_lm", "decoder_layers": 1}
    path = saved(replaced(state, ("cfg", "model"), model), tmp_path)
    assert "must name a checkpoint of --arch opt" in outcome(through_fairseq, path, "other model")


def test_literals() -> None:
    for text in (
        "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2",
        "(0.9, 0.98)",
        "True",
        "-1",
        "{'a': 1}",
    ):
        assert is_literal(text), text
    for text in (
        "f()",
        "a",
        "[x for x in (1,)]",
        "[0] * 10000 * 10000",
        "[0] * (9000 + 9000)",
        "9**9**9",
        "(1).real",
        "",
        "(" * 5000,
    ):
        assert not is_literal(text), text


def test_all_evaluated_options_are_known() -> None:
    """As fairseq's own source has them; those of its command line are given by the user."""
    called = re.compile(
        r"(?:\beval|eval_str_list|eval_str_dict|eval_bool)\(\s*(?:self\.)?(?:args|cfg)\.(\w+)"
    )
    found = set()
    for path in Path(str(fairseq.__file__)).parent.rglob("*.py"):
        found |= set(called.findall(path.read_text(encoding="utf-8")))
    assert {"decoder_layers", "conv_feature_layers"} <= found <= EVALUATED


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("decoder_layers", 10**9, "they say 1000000000 at `decoder_layers` and its tensors 2"),
        ("decoder_embed_dim", 10**15, "they say 1000000000000000 at `decoder_embed_dim`"),
        ("decoder_max_positions", 2**62, "at `decoder_max_positions`"),
        ("decoder_attention_heads", 0, "a number of at least 1 at `decoder_attention_heads`"),
        ("decoder_layers", "${oc.env:HOME}", "which asks for something else"),
        ("dropout", "half", "the type that fairseq declares for `dropout`"),
    ],
)
@pytest.mark.parametrize("door", [name for name in DOORS if name != "data"])
def test_absurd_model(
    state: Dict[str, Any], tmp_path: Path, door: str, setting: str, value: Any, sentence: str
) -> None:
    path = saved(replaced(state, ("cfg", "model", setting), value), tmp_path)
    assert sentence in outcome(DOORS[door], path, setting)


class Runs:
    """What a malicious pickle holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("door", DOORS)
def test_refused_class_is_named(
    state: Dict[str, Any], tmp_path: Path, door: str, is_zip: bool
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "checkpoint_last.pt"
    held = {**state, "task_state": {"x": Runs(canary)}}
    torch.save(held, path, _use_new_zipfile_serialization=is_zip)
    sentence = outcome(DOORS[door], path, door)
    assert "asks for posix.mkdir, and loading a class can run any program" in sentence
    assert not canary.exists()


def test_legacy_file_is_read(state: Dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_last.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert outcome(OPT.from_pretrained, path, "legacy") == ""


def repacked(sound: Path, path: Path, names: Callable[[str], str], kind: int, more: bytes) -> Path:
    with zipfile.ZipFile(sound) as source, zipfile.ZipFile(path, "w", kind) as target:
        for entry in source.namelist():
            target.writestr(names(entry), source.read(entry))
        if more:
            target.writestr("archive/data/bomb", more)
    return path


@pytest.mark.parametrize("door", DOORS)
def test_archives(sound: Path, tmp_path: Path, door: str) -> None:
    path = tmp_path / "checkpoint_last.pt"
    repacked(sound, path, lambda name: name, zipfile.ZIP_DEFLATED, bytes(2 * 2**30 // 64))
    assert "its entries are packed" in outcome(DOORS[door], path, "bomb")
    repacked(sound, path, lambda name: f"../{name}", zipfile.ZIP_STORED, b"")
    assert "named outside of it" in outcome(DOORS[door], path, "outside")


@pytest.mark.parametrize("door", [name for name in DOORS if name != "data"])
def test_tensors_that_claim_what_is_not_there(
    state: Dict[str, Any], tmp_path: Path, door: str
) -> None:
    name = "decoder.embed_tokens.weight"
    for tensor in (
        torch.zeros(1).expand(10**6, 10**6),
        torch.empty(10**6, 10**6, device="meta"),
        torch.zeros(4, 4).to_sparse(),
        [1.0],
    ):
        path = saved(replaced(state, ("model", name), tensor), tmp_path)
        assert outcome(DOORS[door], path, name), tensor


def test_bytes_that_a_number_makes(tmp_path: Path) -> None:
    """``bytearray(10**10)`` in 30 bytes, which ``weights_only`` lets through."""
    path = tmp_path / "checkpoint_last.pt"
    with path.open("wb") as stream:
        pickle.dump(torch.serialization.MAGIC_NUMBER, stream, protocol=2)
        pickle.dump(torch.serialization.PROTOCOL_VERSION, stream, protocol=2)
        pickle.dump({}, stream, protocol=2)
        stream.write(b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R.")
    assert "asks for __builtin__.bytearray" in outcome(OPT.from_pretrained, path, "bytearray")


@pytest.mark.parametrize("key", ["step", "exp_avg", "exp_avg_sq"])
def test_optimizer_that_lacks_something_of_one_parameter(
    state: Dict[str, Any], tmp_path: Path, key: str
) -> None:
    path = saved(replaced(state, ("last_optimizer_state", "state", 3, key), DROP), tmp_path)
    assert "the same of every parameter" in outcome(through_reshard, path, key)


@pytest.mark.slow
def test_mutated_checkpoints_resume(state: Dict[str, Any], data: Path, tmp_path: Path) -> None:
    """A run goes on from each of 40, or says in one sentence why not; half of all the deep places."""
    seed, number = random.Random(3), 0
    for under in (("extra_state",), ("optimizer_history",), ("last_optimizer_state",), ("layout",)):
        for name, spoiled in mutations(state, seed, 10, under):
            number += 1
            folder = tmp_path / str(number)
            saved(spoiled, folder)
            ended = train(data, folder, "--max-update", 3)
            assert ended.status in (0, 2), f"{name}: {ended.last_line}"
            assert "Traceback" not in ended.output, f"{name}: {ended.last_line}"
