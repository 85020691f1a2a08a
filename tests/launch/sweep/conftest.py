"""A data folder that looks like one of ``metaseq prepare``, and sweep files."""

from pathlib import Path
from typing import Callable

import pytest

Write = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train.idx", "train.bin", "valid.idx", "valid.bin"):
        (folder / name).touch()
    return folder


@pytest.fixture
def write(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a sweep file in the current folder, which has a ``data``."""
    monkeypatch.chdir(tmp_path)

    def written(text: str, name: str = "sweep.yaml") -> Path:
        Path(name).write_text(text, "utf-8")
        return Path(name)

    return written
