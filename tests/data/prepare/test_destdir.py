"""``metaseq prepare`` writes over, and deletes, nothing that it did not make."""

import argparse
from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.prepare import command as prepare
from tests.data.trained import write_jsonl


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"a text of {number} and {number * number}" for number in range(40)]
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", texts)


def run(corpus: Path, destdir: Path) -> None:
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    prepare.run(parser.parse_args([str(corpus), "--destdir", str(destdir), "--vocab-size", "270"]))


@pytest.mark.parametrize("name", ["vocab.json", "train.bin", ".prepare/mine.txt"])
def test_files_of_others_are_left_alone(corpus: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / ".prepare").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=r"`--destdir` must .* (something else|would be lost)"):
        run(corpus, tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_what_a_kill_left_is_no_stranger(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / ".prepare" / "tokenizer.0123456789ab.partial").mkdir(parents=True)
    run(corpus, tmp_path)
    assert (tmp_path / "prepare.json").exists()
    assert not (tmp_path / ".prepare").exists()
