"""``metaseq data clean``: exactly the planted faults go, for any number of workers, and DST is whole or not there."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from metaseq_plugin import cli
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents import chunks, reading
from metaseq_plugin.data.streaming.corpora import open_corpora
from metaseq_plugin.data.tools.clean import command as cleaning
from metaseq_plugin.storage import atomic
from tests.data.tools.corpus import Document, as_jsonl, contents, essays, nearly, run, write
from tests.data.trained import write_jsonl

COUNTED = ("not UTF-8", "bad record", "empty", "too short", "too long", "copy", "near copy")
ESSAYS = essays(60)
BAD_UTF8 = b'{"text": "\xff\xfe"}'


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 3_000)


def planted(folder: Path) -> Path:
    """Two corpora in two shards and a validation split, with every fault in known numbers."""
    wiki: list[Document] = [
        {"id": 7, "text": ESSAYS[0], "title": "\ud800 kept", "n": 1.5e-3},
        *ESSAYS[1:20],
        BAD_UTF8,
        b"{nope",
        b"[1, 2]",
        {"body": "no text"},
        {"text": 3},
        "",
        " \n\t ",
        "too short",
        "x" * 3_000,
        ESSAYS[3],
        ESSAYS[3] + "  \n",  # a copy once it is mended
        nearly(ESSAYS[4]),
        ESSAYS[50],  # is in the validation split too
        f"{ESSAYS[20]} \u00a0{chr(92) * 4}nThe {ESSAYS[21]}",
    ]
    books = [*ESSAYS[22:30], ESSAYS[22], "short", "", "\r\n".join(ESSAYS[30:32])]
    late = [ESSAYS[33], nearly(ESSAYS[50], 1), ESSAYS[25], *ESSAYS[34:40]]
    valid: list[Document] = [*ESSAYS[50:60], ESSAYS[51], "short"]
    return write(
        folder,
        {
            "train/00/wiki.jsonl": as_jsonl(wiki),
            "train/00/books.txt.gz": gzip.compress("\n\n\n".join(books).encode()),
            "train/01/wiki.jsonl.zst": zstd.compress(as_jsonl(late)),
            "valid/wiki/00/wiki.jsonl": as_jsonl(valid),
            "README.md": b"not a corpus",
        },
    )


DROPPED = {
    "train/books": {"too short": 1, "copy": 1},
    "train/wiki": {
        "not UTF-8": 1, "bad record": 4, "empty": 2, "too short": 1, "too long": 1, "copy": 4, "near copy": 2,
    },
    "valid/wiki/wiki": {"copy": 1, "too short": 1},
}  # fmt: skip


def clean(source: Path, target: Path, *argv: object) -> dict[str, Any]:
    run(cleaning, source, target, "--max-characters", 2_500, *argv)
    return json.loads((target / "clean.json").read_text())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return planted(tmp_path / "source")


def texts(path: Path) -> list[str]:
    """What is in a file, by other means than the tool's own."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if path.suffix == ".zst":
        raw = zstd.decompress(raw)
    if ".jsonl" in path.name:
        return [json.loads(line)["text"] for line in raw.splitlines()]
    return raw.decode().rstrip("\n").split("\n\n")


def test_what_was_planted_goes_and_nothing_else(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(source)
    report = clean(source, tmp_path / "clean")
    assert contents(source) == before
    for corpus, counts in report["corpora"].items():
        assert {k: n for k, n in counts["dropped"].items() if n} == DROPPED[corpus]
        assert counts["documents"] - sum(counts["dropped"].values()) == counts["documents_kept"]
    target = tmp_path / "clean"
    assert texts(target / "train/00/wiki.jsonl") == [
        *ESSAYS[:20], f"{ESSAYS[20]}\nThe {ESSAYS[21]}"
    ]  # fmt: skip
    assert texts(target / "train/00/books.txt.gz") == [*ESSAYS[22:30], "\n".join(ESSAYS[30:32])]
    assert texts(target / "train/01/wiki.jsonl.zst") == [ESSAYS[33], *ESSAYS[34:40]]
    assert texts(target / "valid/wiki/00/wiki.jsonl") == ESSAYS[50:60]
    assert set(contents(target)) == {*before} - {"README.md"} | {"clean.json"}
    first = (target / "train/00/wiki.jsonl").read_bytes().splitlines()[0]
    assert first == (source / "train/00/wiki.jsonl").read_bytes().splitlines()[0]
    shown = capsys.readouterr().out
    assert re.search(r"train/wiki +43 +65.12% +1 +4 +2 +1 +1 +4 +2\n", shown), shown


def test_the_report_says_where_and_of_what(source: Path, tmp_path: Path) -> None:
    examples = clean(source, tmp_path / "clean")["examples"]
    wiki = "train/00/wiki.jsonl"
    (near, near_of_valid) = examples["near copy"]
    assert (near["file"], near["line"]) == (wiki, 32)
    assert near["found"] == f"of line 5 of {wiki}"
    assert near_of_valid["found"] == "of line 1 of valid/wiki/00/wiki.jsonl"
    (bad,) = examples["not UTF-8"]
    raw = (source / wiki).read_bytes()
    assert bad["byte"] == raw.index(b"\xff")
    assert bad["found"] == "has the byte 0xFF, must be UTF-8"
    assert [example["line"] for example in examples["bad record"]] == [22, 23, 24, 25]
    assert {reason: len(examples[reason]) for reason in COUNTED} == sum(
        (Counter(dropped) for dropped in DROPPED.values()), Counter()
    )


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_the_result_is_the_same_for_any_number_of_workers(
    num_workers: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(source, tmp_path / "one", "--workers", 1)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 500 * num_workers)
    clean(source, tmp_path / "other", "--workers", num_workers)
    assert contents(tmp_path / "other") == contents(tmp_path / "one")


def test_cleaning_what_is_clean_changes_nothing(source: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    clean(source, once)
    report = clean(once, twice)
    before, after = contents(once), contents(twice)
    assert before.pop("clean.json") != after.pop("clean.json")
    assert after == before
    assert not any(sum(counts["dropped"].values()) for counts in report["corpora"].values())
    assert not any(sum(counts["mended"].values()) for counts in report["corpora"].values())


BREAK = "\\" * 4 + "n"
BLANK_LINE = [
    "a cow\n\u3000\nand its two calves", "a cow\nand its two calves",  # copies
    "x" * 9 + BREAK * 2 + "Y" * 8,  # 19 characters, of which 18 are left
]  # fmt: skip
LINE = [
    "a cow\u2028\u2028and its calf", "a cow  and its calf",
    "x\u2028" + " " * 64 + "y" * 16,
    "a goat has\u2028" + " " * 64 + "one kid, or two",
]  # fmt: skip


@pytest.mark.parametrize(
    ("split", "lines"), [("blank-line", "\n\n".join(BLANK_LINE)), ("line", "\n".join(LINE))]
)
def test_a_text_is_judged_as_it_will_be_read_again(split: str, lines: str, tmp_path: Path) -> None:
    """What white space a paragraph or a line cannot keep is gone before it is measured and compared."""
    path = write(tmp_path, {"a.txt": lines.encode()}) / "a.txt"
    argv = ["--split-documents", split, "--near-duplicates", 1, "--min-characters", 19]
    first = clean(path, tmp_path / "once", *argv)["corpora"]["a"]
    assert (first["dropped"]["copy"], first["dropped"]["too short"]) == (1, 1)
    again = clean(tmp_path / "once/a.txt", tmp_path / "twice", *argv)["corpora"]["a"]
    assert (tmp_path / "twice/a.txt").read_bytes() == (tmp_path / "once/a.txt").read_bytes()
    assert sum(again["dropped"].values()) == 0
    assert sum(again["mended"].values()) == 0


def test_the_limits_and_the_threshold_are_what_was_asked_for(source: Path, tmp_path: Path) -> None:
    report = clean(source, tmp_path / "a", "--near-duplicates", 1, "--min-characters", 0)
    dropped = sum((Counter(c["dropped"]) for c in report["corpora"].values()), Counter())
    assert (dropped["near copy"], dropped["too short"], dropped["empty"]) == (0, 0, 2)
    assert dropped["copy"] == 6 + 1  # "short" is in two corpora
    assert report["options"]["threshold"] == 1
    run(cleaning, source, tmp_path / "b")
    assert "x" * 3_000 in texts(tmp_path / "b/train/00/wiki.jsonl")


def test_what_stays_can_be_streamed(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "clean"
    for name in ("vocab.json", "merges.txt", "dict.txt"):
        (source / name).write_text(f"what a tokenizer has in its {name}")
    clean(source, target)
    for name in ("vocab.json", "merges.txt", "dict.txt"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    for split in ("train", "valid/wiki"):
        corpora = open_corpora(str(target), split, None, skips_bad=False)
        found = corpora.num_documents.tolist()
        assert found == ([9, 28] if split == "train" else [10])


def test_a_file_and_lines(tmp_path: Path) -> None:
    lines = [*ESSAYS[:5], "", "short", ESSAYS[1], ESSAYS[6] + "\u2028 end"]
    path = write(tmp_path, {"a.txt": "\n".join(lines).encode()}) / "a.txt"
    report = clean(path, tmp_path / "clean", "--split-documents", "line")
    assert (tmp_path / "clean/a.txt").read_text().split("\n") == [
        *ESSAYS[:5],
        ESSAYS[6] + "  end",
        "",
    ]
    assert report["corpora"]["a"]["dropped"]["copy"] == 1


def test_a_record_that_is_too_long_to_read_goes_and_the_next_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_DOCUMENT_BYTES", 4_000)
    path = write_jsonl(tmp_path / "a.jsonl", [ESSAYS[0], "x" * 9_000, ESSAYS[1]])
    report = clean(path, tmp_path / "clean")
    assert texts(tmp_path / "clean/a.jsonl") == ESSAYS[:2]
    assert report["corpora"]["a"]["dropped"]["too long"] == 1


def test_files_of_which_nothing_stays_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(
        tmp_path / "s",
        {"a.jsonl": as_jsonl(ESSAYS[:3]), "b.jsonl": as_jsonl(ESSAYS[:2]), "c.txt": b""},
    )
    report = clean(source, tmp_path / "clean")
    assert report["files_left_empty"] == ["b.jsonl", "c.txt"]
    assert "not made b.jsonl, c.txt (2 in all)" in capsys.readouterr().out
    assert set(contents(tmp_path / "clean")) == {"a.jsonl", "clean.json"}


def test_mistakes_are_one_sentence_and_leave_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = write(tmp_path / "full", {"mine.txt": b"x"})
    damaged = write(tmp_path / "damaged", {"a.jsonl.gz": gzip.compress(as_jsonl(ESSAYS) * 9)[:-9]})
    nothing = write(tmp_path / "nothing", {"a.txt": b"x\n\ny"})
    target = tmp_path / "target"
    for argv, sentence in (
        ([tmp_path / "none", target], "An input must be a file or folder that exists"),
        ([source, full], "DST must not exist yet"),
        ([source, full, "--overwrite"], "`--overwrite` must replace a cleaned corpus and nothing else, but .* holds mine.txt"),
        ([source, source / "clean"], "DST must not be in SRC"),
        ([source, source], "DST must not be SRC"),
        ([source, target, "--near-duplicates", "0"], "`--near-duplicates` must be between 0.3 and 1, but is 0.0"),
        ([source, target, "--near-duplicates", "nan"], "`--near-duplicates` must be between"),
        ([source, target, "--min-characters", "-1"], "`--min-characters` must be between 0 and"),
        ([source, target, "--workers", "0"], "`--workers` must be between 1 and"),
        ([damaged, target], "An input must be readable, but .*a.jsonl.gz' is not"),
        ([nothing, target], r"SRC must hold documents that stay, but none does \(2 too short\)"),
    ):  # fmt: skip
        assert cli.main(["data", "clean", *map(str, argv)]) == 2
        shown = capsys.readouterr().err
        assert re.search(f"metaseq data clean: error: {sentence}", shown), shown
    assert not target.exists()
    assert not list(tmp_path.glob("*.partial"))
    assert contents(full) == {"mine.txt": b"x"}


def test_overwrite_replaces_an_earlier_result(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "clean"
    clean(source, target)
    with pytest.raises(UserError, match="DST must not exist yet"):
        clean(source, target)
    report = clean(source, target, "--overwrite", "--near-duplicates", 1)
    assert report["options"]["threshold"] == 1
    note = target / "notes" / "mine.txt"
    note.parent.mkdir()
    note.write_text("mine")
    with pytest.raises(UserError, match=r"holds notes/mine.txt\. Move that elsewhere"):
        clean(source, target, "--overwrite")
    assert note.read_text() == "mine"


def test_a_full_disk_is_one_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "flush", full)
    with pytest.raises(UserError, match=r"DST must .* has room, .*No space left"):
        clean(source, tmp_path / "clean")
    assert not list(tmp_path.glob("clean*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_result_and_no_processes(kind: int, tmp_path: Path) -> None:
    """After Ctrl-C nothing is left; after kill -9 what is left is left alone."""
    source = write_jsonl(tmp_path / "a.jsonl", essays(6_000, 400))
    target = tmp_path / "clean"
    arguments = ["data", "clean", str(source), str(target)]
    start = "import sys; from metaseq_plugin.compat.commands import main; sys.exit(main())"
    command = [sys.executable, "-c", start, *arguments]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not list(tmp_path.glob("clean.*.partial/a.jsonl")):
        assert process.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(kind)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == (130 if kind == signal.SIGINT else -signal.SIGKILL)
    assert b"Traceback" not in shown
    assert not target.exists()
    left = list(tmp_path.glob("clean.*.partial"))
    assert len(left) == (kind == signal.SIGKILL)
    for _ in range(100):
        if not any(os.path.exists(f"/proc/{pid}") for pid in children):
            break
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children)
    write_jsonl(source, ESSAYS)
    clean(source, target)
    assert set(contents(target)) == {"a.jsonl", "clean.json"}
    assert list(tmp_path.glob("clean.*.partial")) == left  # for the user to delete
