"""The folder of evaluation sets: checksums, and what is said of a file that is not what it must be."""

import hashlib
from pathlib import Path
from typing import Callable

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.data_folder import DataFolder, MissingData
from tests.evaluate.lookalike import PAIRS, ROWS, UNKNOWN, write_data


def folder(path: Path | None, said: list[str], any_data: bool = False) -> DataFolder:
    return DataFolder(path, any_data, said.append)


def test_a_file_is_checked_once_and_told(tmp_path: Path) -> None:
    said: list[str] = []
    data = folder(write_data(tmp_path), said)
    assert data.open(PAIRS) == data.open(PAIRS) == tmp_path / "pairs/pairs.jsonl"
    assert data.checksums == {"pairs/pairs.jsonl": PAIRS.sha256}
    assert said == [f"data     pairs/pairs.jsonl: as expected (SHA-256 {str(PAIRS.sha256)[:12]}…)"]


def test_a_file_without_a_known_checksum_is_taken_with_its_own(tmp_path: Path) -> None:
    (tmp_path / "talks").mkdir()
    (tmp_path / UNKNOWN.path).write_text("{}\n")
    said: list[str] = []
    data = folder(tmp_path, said)
    data.open(UNKNOWN)
    assert data.checksums == {UNKNOWN.path: hashlib.sha256(b"{}\n").hexdigest()}
    assert "none is known to compare it with" in said[0]


def test_another_file_is_taken_only_when_asked(tmp_path: Path) -> None:
    write_data(tmp_path, ROWS[:-1])
    found = hashlib.sha256((tmp_path / PAIRS.path).read_bytes()).hexdigest()
    with pytest.raises(
        UserError, match=f"must have the SHA-256 {PAIRS.sha256}, but has {found}"
    ) as refused:
        folder(tmp_path, []).open(PAIRS)
    assert "example.org/pairs (licence: CC BY 4.0)" in str(refused.value)
    assert "--any-data" in str(refused.value)
    assert not isinstance(refused.value, MissingData)
    said: list[str] = []
    data = folder(tmp_path, said, any_data=True)
    data.open(PAIRS)
    assert data.checksums == {PAIRS.path: found}
    assert "taken as --any-data says" in said[0]


def empty(path: Path) -> None:
    write_data(path, [])


def as_folder(path: Path) -> None:
    (path / PAIRS.path).mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda path: None, MissingData, "`--data` must hold pairs/pairs.jsonl, but"),
        (as_folder, MissingData, "but has no such file"),
        (empty, UserError, "must not be empty, but has 0 bytes. Get it from example.org/pairs"),
    ],
)
def test_what_is_no_file_is_told_with_where_to_get_it(
    tmp_path: Path, make: Callable[[Path], None], kind: type, said: str
) -> None:
    make(tmp_path)
    with pytest.raises(kind, match=said) as refused:
        folder(tmp_path, []).open(PAIRS)
    for part in ("example.org/pairs", "CC BY 4.0", "JSONL with id, more and less."):
        assert part in str(refused.value)
    if kind is MissingData:
        assert str(refused.value).endswith(f"Its SHA-256: {PAIRS.sha256}.")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="`--data` must name the folder of evaluation sets"):
        folder(None, []).open(PAIRS)
    with pytest.raises(
        UserError, match=r"`--data` must be a folder of evaluation sets, but .* is none"
    ):
        folder(tmp_path / "no", []).open(PAIRS)
