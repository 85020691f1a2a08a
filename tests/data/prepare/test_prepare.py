"""``metaseq prepare``: what it writes is fairseq's, does not depend on the workers, survives interruption."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary, indexed_dataset

from metaseq_plugin import cli
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.writer import BinarizedWriter
from metaseq_plugin.data.documents import chunks
from metaseq_plugin.data.documents.reading import RawDocument
from metaseq_plugin.data.prepare import command as prepare
from metaseq_plugin.data.prepare import vocabulary as train_vocabulary
from metaseq_plugin.storage import atomic
from metaseq_plugin.tokenizers.dictionary import token_dtype
from metaseq_plugin.tokenizers.open import BPE_NAMES, from_folder
from tests.data.trained import real_texts, write_jsonl

VOCAB_SIZE = 400


def documents() -> list[str]:
    """Paragraphs of real text, with an awkward and an empty document and a double among them."""
    paragraphs = [p for text in real_texts() for p in text.split("\n\n")][:1_500]
    awkward = "\r\n \x00\u2581\U0001f600 </s> \t\n"
    return [*paragraphs, awkward, "", paragraphs[0]]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", documents())


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 20_000)


def run(*argv: object) -> None:
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    prepare.run(parser.parse_args([str(argument) for argument in argv]))


@pytest.fixture(scope="session")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("prepared") / "data"
    run(corpus, "--destdir", data, "--vocab-size", VOCAB_SIZE, "--valid-fraction", 0.1)
    return data


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def decoded(data: Path, split: str) -> list[str]:
    dataset = indexed_dataset.make_dataset(str(data / split), "mmap")
    tokenizer = from_folder(data)
    found = []
    for number in range(len(dataset)):
        ids = dataset[number].tolist()
        assert ids[-1] == 2
        assert 2 not in ids[:-1]
        found.append(tokenizer.decode(ids))
    return found


@pytest.mark.parametrize("bpe", BPE_NAMES)
def test_the_corpus_comes_back(bpe: str, corpus: Path, tmp_path: Path) -> None:
    run(corpus, "--destdir", tmp_path, "--bpe", bpe, "--vocab-size", VOCAB_SIZE)
    train, valid = decoded(tmp_path, "train"), decoded(tmp_path, "valid")
    assert sorted([*train, *valid]) == sorted(text for text in documents() if text)
    in_order = [text for text in documents() if text and text not in set(valid)]
    assert train == in_order
    assert not set(train) & set(valid)  # the double has gone where its twin went
    assert len(Dictionary.load(str(tmp_path / "dict.txt"))) == VOCAB_SIZE
    assert indexed_dataset.infer_dataset_impl(str(tmp_path / "train")) == "mmap"
    report = json.loads((tmp_path / "prepare.json").read_text())
    for split, found in (("train", train), ("valid", valid)):
        size = (tmp_path / f"{split}.bin").stat().st_size
        assert report["counts"][split] == {
            "documents": len(found),
            "tokens": size // 2,  # two bytes a token
            "bytes": sum(len(text.encode()) for text in found),
        }
    assert report["counts"]["left_out"] == {"empty_documents": documents().count("")}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_do_not_matter(workers: int, corpus: Path, prepared: Path, tmp_path: Path) -> None:
    options = ("--vocab-size", VOCAB_SIZE, "--valid-fraction", 0.1, "--workers", workers)
    run(corpus, "--destdir", tmp_path, *options)
    assert contents(tmp_path) == contents(prepared)


def test_writer_writes_what_fairseqs_builder_writes(tmp_path: Path) -> None:
    sizes = np.array([3, 1, 700], dtype=np.int32)
    for vocab_size in (1_000, 100_000):
        dtype = token_dtype(vocab_size)
        tokens = np.arange(sizes.sum()).astype(dtype)
        writer = BinarizedWriter(tmp_path, "ours", dtype)
        writer.add(tokens[:4], sizes[:2])
        writer.add(tokens[4:], sizes[2:])
        writer.close()
        builder = indexed_dataset.make_builder(str(tmp_path / "its.bin"), "mmap", vocab_size)
        for document in np.split(tokens.astype(np.int64), np.cumsum(sizes)[:-1]):
            builder.add_item(torch.from_numpy(document))
        builder.finalize(str(tmp_path / "its.idx"))
        for suffix in (".bin", ".idx"):
            ours, its = tmp_path / f"ours{suffix}", tmp_path / f"its{suffix}"
            assert ours.read_bytes() == its.read_bytes()


def test_a_given_tokenizer_is_used_and_kept(prepared: Path, corpus: Path, tmp_path: Path) -> None:
    options: list[object] = ["--valid-fraction", 0.1, "--destdir", tmp_path]
    options += ["--opt-bpe-vocab", prepared / "vocab.json"]
    options += ["--opt-bpe-merges", prepared / "merges.txt"]
    run(corpus, *options)
    expected, found = contents(prepared), contents(tmp_path)
    for files in (expected, found):
        del files["prepare.json"]
    assert found == expected


def test_a_finished_run_is_not_done_again(
    corpus: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    run(corpus, "--destdir", prepared, "--vocab-size", VOCAB_SIZE, "--valid-fraction", 0.1)
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before


def test_other_data_is_replaced_only_on_request(corpus: Path, tmp_path: Path) -> None:
    run(corpus, "--destdir", tmp_path, "--vocab-size", VOCAB_SIZE)
    before = contents(tmp_path)
    other = ("--destdir", tmp_path, "--bpe", "opt_sentencepiece", "--vocab-size", 500)
    with pytest.raises(UserError, match="must not hold a dataset made otherwise"):
        run(corpus, *other)
    assert contents(tmp_path) == before
    run(corpus, *other, "--overwrite")
    assert len(from_folder(tmp_path)) == 504  # and no file of the other kind is left


class PowerCutError(Exception):
    """Stands for anything that ends the command in the middle."""


def cut_after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, but the call after ``count`` calls raises."""
    calls = iter(range(count + 1))

    def wrapper(*args: Any, **options: Any) -> Any:
        if next(calls) == count:
            raise PowerCutError
        return function(*args, **options)

    return wrapper


@pytest.mark.parametrize(
    ("place", "name", "count"),
    [
        (prepare, "train_vocabulary", 0),
        (np, "savez", 0),
        (chunks, "read_documents", 0),
        (prepare, "merge_chunks", 0),
        (BinarizedWriter, "close", 1),
        (prepare, "_publish", 0),
        (atomic, "rename", 3),
    ],
)
def test_an_interrupted_run_goes_on(
    place: Any, name: str, count: int, corpus: Path, prepared: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    options = ("--destdir", data, "--vocab-size", VOCAB_SIZE, "--valid-fraction", 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, cut_after(count, getattr(place, name)))
        with pytest.raises(PowerCutError):
            run(corpus, *options)
    assert not (data / "prepare.json").exists()
    assert not (data / "train.idx").exists()
    run(corpus, *options)
    assert contents(data) == contents(prepared)


def test_finished_chunks_are_not_made_again(
    corpus: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--destdir", tmp_path, "--vocab-size", VOCAB_SIZE, "--valid-fraction", 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "merge_chunks", cut_after(0, prepare.merge_chunks))
        with pytest.raises(PowerCutError):
            run(corpus, *options)
    chunks = sorted((tmp_path / ".prepare" / "chunks").iterdir())
    assert len(chunks) > 5
    chunks[3].unlink()
    kept = {path: path.stat().st_mtime_ns for path in chunks if path.exists()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "train_vocabulary", cut_after(0, prepare.train_vocabulary))
        patch.setattr(prepare, "_publish", cut_after(0, prepare._publish))
        with pytest.raises(PowerCutError):
            run(corpus, *options)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert chunks[3].exists()
    # Another plan begins anew.
    run(corpus, *options[:-1], 0.2)
    assert json.loads((tmp_path / "prepare.json").read_text())["plan"]["valid_fraction"] == 0.2


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow  # starts the command twice
def test_a_killed_run_goes_on_and_leaves_no_process(prepared: Path, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "big.jsonl", real_texts() * 40)  # some chunks of 4 MB
    command = [
        sys.executable,
        "-c",
        "import sys; from metaseq_plugin.cli import main; sys.exit(main())",
    ]
    command += ["prepare", str(corpus), "--destdir", str(tmp_path / "data"), "--workers", "2"]
    command += ["--opt-bpe-vocab", str(prepared / "vocab.json")]
    command += ["--opt-bpe-merges", str(prepared / "merges.txt")]
    chunks = tmp_path / "data" / ".prepare" / "chunks"
    # Its own group, to see who is left of it.
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: chunks.is_dir() and any(chunks.glob("*.npz")))
    process.kill()
    assert process.wait() == -signal.SIGKILL

    def all_gone() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(all_gone)
    assert not (tmp_path / "data" / "train.idx").exists()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "data" / "prepare.json").read_text())
    count = report["counts"]["train"]["documents"] + report["counts"]["valid"]["documents"]
    assert count == 40 * len(real_texts())


def test_two_at_once_are_refused(corpus: Path, tmp_path: Path) -> None:
    with (
        prepare._work_folder(tmp_path, {}),
        pytest.raises(UserError, match="one command at a time"),
    ):
        run(corpus, "--destdir", tmp_path)


def test_both_splits_have_documents(tmp_path: Path) -> None:
    texts = [f"document {n}" for n in range(5)]
    corpus = write_jsonl(tmp_path / "few.jsonl", texts)
    for fraction, split in ((1e-9, "valid"), (1 - 1e-9, "train")):
        data = tmp_path / split
        run(corpus, "--destdir", data, "--valid-fraction", fraction)
        assert len(decoded(data, split)) == 1
        assert sorted([*decoded(data, "train"), *decoded(data, "valid")]) == texts


def test_the_seed_chooses_what_is_held_out(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    files = (
        "--opt-bpe-vocab",
        prepared / "vocab.json",
        "--opt-bpe-merges",
        prepared / "merges.txt",
    )
    held_out = []
    for seed in (1, 2):
        run(corpus, "--destdir", tmp_path / str(seed), "--seed", seed, *files)
        held_out.append(decoded(tmp_path / str(seed), "valid"))
    assert held_out[0] != held_out[1]


def test_the_sample_is_bounded_and_even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_vocabulary, "SAMPLE_BYTES", 4_000)
    every = [RawDocument("a.txt", n, 0, b"%039d\n" % n) for n in range(1_000)]
    chosen = train_vocabulary.sample_documents(every, seed=1)
    assert len(chosen) == 100
    assert chosen == sorted(chosen, key=lambda document: document.line)
    assert 300 < np.mean([document.line for document in chosen]) < 700
    assert chosen == train_vocabulary.sample_documents(every, seed=1)
    assert chosen != train_vocabulary.sample_documents(every, seed=2)


# name -> (options; what the sentence says). {p}: a prepared folder, {t}: an empty one
WRONG = {
    "vocabulary too small": ("--vocab-size 259", "`--vocab-size` must be between 260 and 1000000, but is 259"),
    "vocabulary too large": ("--vocab-size 100000", r"`--vocab-size` must be at most \d+ .* but is 100000"),
    "sentencepiece too small": ("--bpe opt_sentencepiece --vocab-size 261", "`--vocab-size` must fit the corpus, but is 261. SentencePiece says"),
    "sentencepiece too large": ("--bpe opt_sentencepiece --vocab-size 100000", "`--vocab-size` must fit .* 100000"),
    "fraction 0": ("--valid-fraction 0", "`--valid-fraction` must lie between 0 and 1, but is 0.0"),
    "fraction 1": ("--valid-fraction 1", "`--valid-fraction` must lie between"),
    "fraction nan": ("--valid-fraction nan", "`--valid-fraction` must lie between 0 and 1, but is nan"),
    "no workers": ("--workers 0", "`--workers` must be between 1 and"),
    "negative seed": ("--seed -1", "`--seed` must be between 0"),
    "vocab alone": ("--opt-bpe-vocab {p}/vocab.json", "`--opt-bpe-merges` is missing"),
    "merges alone": ("--opt-bpe-merges {p}/merges.txt", "`--opt-bpe-vocab` is missing"),
    "two kinds": ("--opt-bpe-vocab x --opt-bpe-merges x --opt-sentencepiece-model x", "`--bpe` must be of the kind"),
    "other kind": ("--bpe opt_bpe --opt-sentencepiece-model x", "`--bpe` must be of the kind"),
    "size and files": ("--vocab-size 300 --opt-sentencepiece-model x", "`--vocab-size` must be left out"),
    "missing model": ("--opt-sentencepiece-model {t}/x", "`--opt-sentencepiece-model` must be a readable file"),
    "wrong model": ("--opt-sentencepiece-model {p}/dict.txt", "`--opt-sentencepiece-model` must be a SentencePiece model"),
    "swapped files": ("--opt-bpe-vocab {p}/merges.txt --opt-bpe-merges {p}/vocab.json", "`--opt-bpe-vocab` must be a JSON file"),
}  # fmt: skip


def refused(argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prepare", *argv]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("metaseq prepare: error: ")
    with pytest.raises(UserError, match=sentence):
        raise UserError(last)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options(
    name: str, corpus: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, sentence = WRONG[name]
    data = tmp_path / "data"
    argv = [str(corpus), "--destdir", str(data), *options.format(p=prepared, t=tmp_path).split()]
    refused(argv, sentence, capsys)
    assert not data.exists()


# name -> (the corpus, what the sentence says)
WRONG_CORPUS = {
    "no bytes": (b"", "must hold text, but all their documents are empty"),
    "only blank lines": (b"\n\n\n", "must hold text, but all their documents"),
    "only empty text": (b'{"text": ""}\n' * 3, "must hold text, but all their documents"),
    "one document": (b'{"text": "all there is"}\n', "at least two different documents.* but hold 1,"),
    "one document many times": (b'{"text": "all there is"}\n' * 9, "but hold 9, all equal"),
    "bad record late": (b'{"text": "good %d"}\n' * 20_000 + b'{"text": 1}\n', "Line 20001 of"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_CORPUS)
def test_wrong_corpus(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, sentence = WRONG_CORPUS[name]
    (tmp_path / "corpus.jsonl").write_bytes(content)
    argv = [str(tmp_path / "corpus.jsonl"), "--destdir", str(tmp_path / "data")]
    refused(argv, sentence, capsys)
    assert not (tmp_path / "data").exists()


def test_the_first_bad_record_is_named_whatever_the_workers(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"text": "x" * 500})] * 400
    lines[90] = lines[300] = "[]"
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    argv = [str(tmp_path / "corpus.jsonl"), "--destdir", str(tmp_path / "data")]
    argv += ["--opt-bpe-vocab", str(prepared / "vocab.json")]
    argv += ["--opt-bpe-merges", str(prepared / "merges.txt")]
    for workers in ("1", "4"):
        refused([*argv, "--workers", workers], "Line 91 of", capsys)


def test_destdir_that_cannot_be_written(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for destdir in (tmp_path / "file", tmp_path / "file" / "data"):
        argv = [str(corpus), "--destdir", str(destdir)]
        refused(argv, "`--destdir` must be a folder that can be written", capsys)


def test_own_output_is_no_input(corpus: Path, tmp_path: Path) -> None:
    for n, text in enumerate(real_texts()):
        (tmp_path / f"{n}.txt").write_text(text, encoding="utf-8")
    for overwrite in ([], ["--overwrite", "--seed", "2"]):
        run(tmp_path, "--destdir", tmp_path, "--vocab-size", VOCAB_SIZE, *overwrite)
        report = json.loads((tmp_path / "prepare.json").read_text())
        assert len(report["plan"]["inputs"]) == len(real_texts())
