"""What a run remembers of being watched, and what of it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.spikes import Seen
from metaseq_plugin.ledger.watch_file import NAME, Remembered, Rewind, read, write

REWIND = Rewind(time=1795804419.2, at=57, to=40, first=52, last=61, lr_factor=0.5)
WHOLE = Remembered([REWIND], [Seen(1, 5.25, 1.5), Seen(2, 5.0, 0.0)])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read(tmp_path) == Remembered([], [])
    write(tmp_path, WHOLE)
    assert read(tmp_path) == WHOLE
    write(tmp_path, Remembered([], []))
    assert read(tmp_path) == Remembered([], [])
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "must be of version 1, but is of 2. Update metaseq-plugin"),
        ({"seen": [[1, 2.0]]}, r"a list of 3 at `the file.seen\[0\]`"),
        ({"seen": 3}, "a list at `the file.seen`"),
        ({"rewinds": [{"time": 1.0}]}, r"a value at `the file.rewinds\[0\]"),
        ({"rewinds": [{**REWIND, "first": -1}]}, r"a whole number from 0 at `the file.rewinds\[0\].first`"),
        ({"rewinds": [{**REWIND, "lr_factor": "x"}]}, "a number at"),
    ],
)  # fmt: skip
def test_another_file_is_refused(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    path = tmp_path / "ledger" / NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=sentence):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    (tmp_path / "ledger" / NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"watch\.json"):
        read(tmp_path)
