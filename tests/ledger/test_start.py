"""What a start says of itself, and what is other than at the start before it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metaseq_plugin.ledger import start
from metaseq_plugin.ledger.start import EDGE_BYTES, changes, data, difference, of_the_schedule


class Options(SimpleNamespace):
    def __contains__(self, name: str) -> bool:
        return name in vars(self)


def of(folder: str) -> dict[str, Any]:
    return data(SimpleNamespace(task=Options(data=folder)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a" / "train").mkdir(parents=True)
    (tmp_path / "a" / "dict.txt").write_bytes(b"a 1\n")
    (tmp_path / "a" / "train" / "00.bin").write_bytes(bytes(3 * EDGE_BYTES))
    return tmp_path / "a"


def test_the_hash_sees_names_sizes_and_both_ends(folder: Path) -> None:
    first = of(str(folder))
    assert (first["files"], first["bytes"]) == (2, 4 + 3 * EDGE_BYTES)
    large, seen = folder / "train" / "00.bin", {first["hash"]}
    for content in (
        bytes(3 * EDGE_BYTES - 1) + b"x",
        b"x" + bytes(3 * EDGE_BYTES - 1),
        bytes(3 * EDGE_BYTES + 1),
    ):
        large.write_bytes(content)
        seen.add(of(str(folder))["hash"])
    large.write_bytes(bytes(3 * EDGE_BYTES))
    assert of(str(folder)) == first
    large.rename(large.with_name("01.bin"))
    seen.add(of(str(folder))["hash"])
    assert len(seen) == 5


def test_an_index_and_a_corpus_that_is_elsewhere_change_nothing(folder: Path) -> None:
    first = of(str(folder))
    (folder / "train" / ".00.index.npy").write_bytes(b"x")
    assert of(str(folder)) == first
    folder.rename(folder.with_name("b"))
    moved = of(str(folder.with_name("b")))
    assert moved["hash"] == first["hash"]
    assert moved["path"] != first["path"]


def test_a_task_without_data() -> None:
    assert data(SimpleNamespace(task=Options())) == {}
    assert data(SimpleNamespace(task=Options(data=None))) == {}
    assert of("/not/there") == {
        "path": "/not/there",
        "files": 0,
        "bytes": 0,
        "hash": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }  # fmt: skip  (that of nothing)


def test_only_what_changed_is_said() -> None:
    before = {
        "options": {"optimization.lr": [0.1], "common.seed": 1, "task.old": 3},
        "layout": {"ranks": 8}, "git": {"commit": "a", "branch": "main"}, "versions": {"torch": "2.8"},
    }  # fmt: skip
    now = {
        "options": {"optimization.lr": [0.05], "common.seed": 1, "task.new": 4},
        "layout": {"ranks": 4}, "git": {"commit": "b", "branch": "main"}, "versions": {"torch": "2.8"},
    }  # fmt: skip
    found = changes(before, now)
    assert found == {
        "options": {
            "optimization.lr": [[0.1], [0.05]], "task.old": [3, None], "task.new": [None, 4],
        },
        "layout": {"ranks": [8, 4]},
        "code": {"commit": ["a", "b"]},
    }  # fmt: skip
    assert changes(now, now) == {}
    assert of_the_schedule(found["options"]) == {"optimization.lr": [[0.1], [0.05]]}


def test_what_every_start_has_of_its_own_is_no_change() -> None:
    port = "distributed_training.distributed_port"
    assert difference({port: 1, "a": 1}, {port: 2, "a": 2}) == {"a": [1, 2]}


def test_a_file_that_is_gone_when_it_is_read_ends_no_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = folder / "train" / "01.bin"
    monkeypatch.setattr(start, "files_below", lambda _: [gone])
    assert of(str(folder)) == {
        "path": str(folder), "hash": None, "problem": f"{gone}: No such file or directory",
    }  # fmt: skip


def test_what_a_damaged_start_says_is_taken_as_nothing() -> None:
    assert changes({"options": [1], "layout": "none"}, {"options": {"a": 1}}) == {
        "options": {"a": [None, 1]}
    }
