"""Every hostile version of a model folder's files, through every door that reads it: read, or one sentence."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.formats.folders import write_tokenizer
from tests.hostile import corpus, doors

MIN_CASES = 400
MODEL_FILES = ("config.json", "model.safetensors.index.json", corpus.SHARD, corpus.TORCH)


def write_folder(file: str, folder: Path) -> None:
    """A sound folder that holds ``file``."""
    if file in MODEL_FILES:
        doors.write_model(folder)
        if file == corpus.TORCH:
            torch.save(load_file(folder / "model.safetensors"), folder / file)
            (folder / "model.safetensors").unlink()
            return
        (folder / "model.safetensors").rename(folder / corpus.SHARD)
        names = [doors.to_hf(name) for name in expected_names()]
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, corpus.SHARD)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return
    folder.mkdir()
    if file == "sentencepiece.model":
        corpus.write_sentence_pieces(folder)
        return
    tokenizer = write_tokenizer(folder)
    if file == "tokenizer.json":
        tokenizer.add_tokens(["<mine>"])
        tokenizer.save(str(folder / file))
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
    if file == "dict.txt":
        corpus.write_dictionary(folder)


def expected_names() -> list[str]:
    ours = doors.decoder(vocab_size=doors.VOCAB_SIZE, **doors.SHAPE)
    return [f"decoder.{name}" for name in ours.state_dict()]


def doors_of(file: str) -> tuple[doors.Door, ...]:
    if file in MODEL_FILES:
        return (doors.open_model,)
    if file == "dict.txt":
        return (doors.open_dictionary, *doors.TOKENIZER_DOORS)
    return doors.TOKENIZER_DOORS


@pytest.mark.parametrize("file", corpus.FORMATS)
def test_each_hostile_file_is_read_or_refused_in_one_sentence(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder(file, folder)
    sound = (folder / file).read_bytes() if (folder / file).exists() else b"{}"
    before = set(os.listdir(folder)) | {file}
    cases = list(corpus.FORMATS[file](folder))
    assert list(doors.complaints(folder, file, cases, doors_of(file), tmp_path / "out")) == []
    assert set(os.listdir(folder)) == before
    assert sorted(os.listdir(tmp_path)) == ["folder", "out"]
    # The doors are those that read the sound file.
    (folder / file).write_bytes(sound)
    first = doors_of(file)[1 if file == "tokenizer.json" else 0]
    first(folder, tmp_path / "out")


def test_the_corpus_is_wide(tmp_path: Path) -> None:
    number = 0
    for place, (file, cases) in enumerate(corpus.FORMATS.items()):
        write_folder(file, tmp_path / str(place))
        number += len(list(cases(tmp_path / str(place))))
    assert number >= MIN_CASES
