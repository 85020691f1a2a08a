"""``metaseq data inspect``: its numbers are those of the corpus, counted here by other means."""

import gzip
import io
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaseq_plugin import cli
from metaseq_plugin.data.documents import chunks, reading
from metaseq_plugin.data.prepare.vocabulary import train_vocabulary
from metaseq_plugin.data.tools.clean import command as cleaning
from metaseq_plugin.data.tools.inspect import command as inspection
from metaseq_plugin.data.tools.inspect.lengths import Lengths
from metaseq_plugin.tokenizers.open import from_folder
from tests.data.tools.corpus import Document, as_jsonl, essays, run, write
from tests.data.trained import real_texts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    paths = [reading.RawDocument("a.txt", 1, 0, text.encode()) for text in real_texts()[:3]]
    train_vocabulary("opt_bpe", paths, 400, folder, 1, 1)
    from_folder(folder).save(folder)
    return folder


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 5_000)


def texts_of(seed: int, count: int) -> list[str]:
    """Of very different lengths."""
    generator = np.random.default_rng(seed)
    lengths = np.exp(generator.uniform(0, 6, count)).astype(int) + 1
    return [essays(1, int(n), seed * 1_000 + number)[0] for number, n in enumerate(lengths)]


WIKI, BOOKS, VALID = texts_of(1, 120), texts_of(2, 60), texts_of(3, 10)


def corpus(folder: Path) -> Path:
    bad: list[Document] = [b"{nope", b'{"text": "\xff"}', {"body": "x"}]
    return write(
        folder,
        {
            "train/00/wiki.jsonl": as_jsonl([*WIKI[:70], "", WIKI[3], *bad]),
            "train/01/wiki.jsonl": as_jsonl([*WIKI[70:], WIKI[3] + " \n", BOOKS[5]]),
            "train/00/books.txt.gz": gzip.compress("\n\n".join(BOOKS).encode()),
            "valid/wiki/00/wiki.jsonl": as_jsonl([*VALID, WIKI[4], BOOKS[6]]),
        },
    )


CONTENT = {
    "train/books": BOOKS,
    "train/wiki": [*WIKI, WIKI[3], WIKI[3], BOOKS[5]],
    "valid/wiki/wiki": [*VALID, WIKI[4], BOOKS[6]],
}


def inspected(data: Path, folder: Path, *argv: object) -> dict[str, Any]:
    run(inspection, data, "--report", folder / "report.json", *argv)
    return json.loads((folder / "report.json").read_text())


def options(folder: Path) -> list[object]:
    return ["--opt-bpe-vocab", folder / "vocab.json", "--opt-bpe-merges", folder / "merges.txt"]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_number_is_the_corpus_s(num_workers: int, tmp_path: Path, tokenizer: Path) -> None:
    data = corpus(tmp_path / "data")
    report = inspected(data, tmp_path, *options(tokenizer), "--workers", num_workers)
    encode = from_folder(tokenizer).encode
    assert report["tokens_are_exact"] is True
    assert list(report["corpora"]) == ["valid/wiki/wiki", "train/books", "train/wiki"]
    for name, texts in CONTENT.items():
        counts = report["corpora"][name]
        lengths = [len(encode(text)) + 1 for text in texts]
        assert counts["documents"] == len(texts)
        assert counts["bytes"] == sum(len(text.encode()) for text in texts)
        assert counts["tokens"] == sum(lengths)
        assert counts["tokens_may_be_off_by"] == 0
        assert counts["copies"] == len(texts) - len(set(texts))
        bins = Counter(2 ** int(np.log2(length) + 1) for length in lengths)
        assert {row["below"]: row["documents"] for row in counts["lengths"]} == bins
        assert sum(row["total"] for row in counts["lengths"]) == sum(lengths)
    assert report["corpora"]["train/wiki"]["empty"] == 1
    assert [report["corpora"][name]["failing"] for name in CONTENT] == [0, 3, 0]
    assert report["corpora"]["valid/wiki/wiki"]["in_train"] == 2
    every = [text for texts in CONTENT.values() for text in texts]
    assert report["copies"] == len(every) - len(set(every)) == 5
    longest = sorted((len(encode(text)) + 1 for text in every), reverse=True)[:10]
    assert [row["length"] for row in report["longest"]] == longest


@pytest.mark.parametrize("chunk_bytes", [1, 100, 10_000])
def test_of_equally_long_documents_the_first_are_shown(
    chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    texts = ["x" * 20] * 5 + ["x" * 30] + ["x" * 20] * 25
    longest = inspected(write(tmp_path / "d", {"a.jsonl": as_jsonl(texts)}), tmp_path)["longest"]
    assert [row["line"] for row in longest] == [6, 1, 2, 3, 4, 5, 7, 8, 9, 10]


def test_failures_are_named_by_line_and_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus(tmp_path / "data")
    failing = inspected(data, tmp_path)["failing"]
    raw = (data / "train/00/wiki.jsonl").read_bytes()
    assert [(row["line"], row["found"].split("(")[0]) for row in failing] == [
        (73, "is not JSON "), (74, "has the byte 0xFF"), (75, 'has no "text" '),
    ]  # fmt: skip
    assert [row["offset"] for row in failing] == [
        raw.index(b"{nope"), raw.index(b"\xff"), raw.index(b'{"body')
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert "failing    3 documents or files" in shown
    assert re.search(r"wiki.jsonl +75 +[\d,]+ +has no \"text\" \(it has body\), must be", shown)
    assert "in train   2 of 12 documents of valid/wiki/wiki" in shown
    assert "Tokens are not counted" in shown


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_that_no_terminal_can_show_are_escaped(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lone surrogates and control characters in the keys of a record, and a file's name that is not UTF-8."""
    bad = [b'{"\\ud800": 1}', b'{"a\\u001b[31m\\n": 1}']
    data = write(tmp_path / "data", {"caf\udce9.jsonl": as_jsonl([*bad, WIKI[0]])})
    terminal = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    report = inspected(data, tmp_path)
    run(cleaning, data, tmp_path / "clean")
    terminal.flush()
    shown = terminal.buffer.getvalue()
    assert rb"caf\udce9" in shown
    assert b"\x1b" not in shown
    assert report["longest"][0]["path"].endswith("caf\udce9.jsonl")
    found = [fault["found"] for fault in report["failing"]]
    assert found == [rf'has no "text" (it has {key})' for key in (r"\ud800", r"a\x1b[31m\n")]
    (examples,) = json.loads((tmp_path / "clean/clean.json").read_text())["examples"].values()
    assert [example["file"] for example in examples] == ["caf\udce9.jsonl"] * 2


def test_files_that_cannot_be_read_do_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "MAX_DOCUMENT_BYTES", 10_000)
    data = write(
        tmp_path / "data",
        {
            "a.jsonl.gz": gzip.compress(as_jsonl(WIKI) * 9)[:-9],
            "b.jsonl": as_jsonl([WIKI[0], "x" * 30_000, WIKI[1]]),
            "c.jsonl": b"",
        },
    )
    report = inspected(data, tmp_path)
    assert {name: c["failing"] for name, c in report["corpora"].items()} == {"a": 1, "b": 1, "c": 0}
    assert report["corpora"]["b"]["documents"] == 2
    assert "end-of-stream" in report["failing"][0]["found"]
    assert report["failing"][1]["line"] == 2
    assert re.search(r"\nc +0 +0.00% ", capsys.readouterr().out)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_sample_estimates_tokens_within_the_error_that_it_states(
    share: float, tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 40 corpora at least 34 estimates are within two standard errors: 38 are to be expected."""
    encode = from_folder(tokenizer).encode
    num_within, widths = 0, []
    texts = {f"c{seed}": texts_of(seed, 600) for seed in range(10, 50)}
    files = {f"{name}.jsonl": as_jsonl(some) for name, some in texts.items()}
    report = inspected(
        write(tmp_path / "d", files), tmp_path, *options(tokenizer), "--token-sample", share
    )
    for name, some in texts.items():
        counts = report["corpora"][name]
        exact = sum(len(encode(text)) + 1 for text in some)
        num_within += abs(counts["tokens"] - exact) <= counts["tokens_may_be_off_by"]
        widths.append(counts["tokens_may_be_off_by"] / exact)
        assert 0 < counts["documents_tokenised"] < 600
    assert num_within >= 34
    assert np.mean(widths) < 0.05
    assert report["tokens_are_exact"] is False
    assert report["length_unit"] == "bytes"
    sampled = sum(counts["documents_tokenised"] for counts in report["corpora"].values())
    assert abs(sampled / 24_000 - share) < 0.03
    assert f"estimated from {sampled:,} documents" in capsys.readouterr().out


def test_the_tokenizer_of_the_folder_is_taken(tmp_path: Path, tokenizer: Path) -> None:
    data = corpus(tmp_path / "data")
    for name in ("vocab.json", "merges.txt", "dict.txt"):
        (data / name).write_bytes((tokenizer / name).read_bytes())
    report = inspected(data, tmp_path)
    assert report["tokenizer"] == "opt_bpe"
    assert list(report["corpora"]) == ["valid/wiki/wiki", "train/books", "train/wiki"]
    assert report == inspected(data, tmp_path, *options(tokenizer))


def test_corpora_without_documents(tmp_path: Path, tokenizer: Path) -> None:
    data = write(tmp_path / "data", {"a.txt": b"\n\n", "b.jsonl": b'{"text": ""}\n'})
    report = inspected(data, tmp_path, *options(tokenizer), "--plot", tmp_path / "a.png")
    assert [c["documents"] for c in report["corpora"].values()] == [0, 0]
    assert report["corpora"]["b"]["empty"] == 1
    assert report["longest"] == []


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    data = write(tmp_path / "data", {f"{n}.txt": "\n\n".join(WIKI[n:]).encode() for n in range(12)})
    inspected(data, tmp_path, "--plot", tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000


def test_many_corpora_share_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", {f"{n}.txt": WIKI[n].encode() for n in range(30)})
    inspected(data, tmp_path)
    shown = capsys.readouterr().out
    assert "10 others" in shown
    assert re.search(r"\nall +30 +100.00%", shown)


def test_mistakes_are_one_sentence(
    tmp_path: Path,
    tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = corpus(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    for argv, sentence in (
        ([tmp_path / "none"], "An input must be a file or folder that exists"),
        ([tmp_path / "empty"], "An input folder must hold"),
        ([data, "--token-sample", "0"], "`--token-sample` must be above 0 and at most 1, but is 0.0"),
        ([data, "--token-sample", "1.5"], "`--token-sample` must be above 0 and at most 1, but is 1.5"),
        ([data, "--token-sample", "nan"], "`--token-sample` must be"),
        ([data, "--token-sample", "0.5"], "`--token-sample` must come with a tokenizer"),
        ([data, "--workers", "0"], "`--workers` must be between 1 and"),
        ([data, "--opt-bpe-vocab", "x"], "`--opt-bpe-vocab` and `--opt-bpe-merges` must be given together"),
        ([data, "--report", tmp_path / "no" / "r.json"], "`--report` must be a file that can be written"),
        ([data, "--plot", tmp_path / "no" / "p.png"], "`--plot` must be a file that can be written"),
    ):  # fmt: skip
        assert cli.main(["data", "inspect", *map(str, argv)]) == 2
        shown = capsys.readouterr().err
        assert re.search(f"metaseq data inspect: error: {sentence}", shown), shown
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["data", "inspect", str(data), "--plot", str(tmp_path / "p.png")]) == 2
    captured = capsys.readouterr()
    assert "`--plot` must find matplotlib" in captured.err
    assert "5 of 195 documents" in captured.out  # the count is not lost


def test_bins_double() -> None:
    lengths = Lengths()
    lengths.add(np.array([0, 1, 2, 3, 4, 7, 8, 2**39 - 1]))
    assert lengths.documents[[0, 1, 2, 3, 4, 39]].tolist() == [1, 1, 2, 2, 1, 1]
    assert lengths.total[[0, 1, 2, 3, 4]].tolist() == [0, 1, 5, 11, 8]
    assert "\n2 – 3 " in lengths.as_text("tokens")
