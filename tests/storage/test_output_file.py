"""A command's output has one writer, and none at a file that has just been replaced."""

from pathlib import Path
from typing import BinaryIO

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage import output_file
from metaseq_plugin.storage.atomic import replacing
from metaseq_plugin.storage.locks import Lock
from metaseq_plugin.storage.output_file import opened_output


def test_a_file_that_another_process_has_just_replaced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"

    def lock(stream: BinaryIO) -> Lock:
        with replacing(path) as unfinished:
            unfinished.write_bytes(b"")
        return Lock.ours

    monkeypatch.setattr(output_file, "try_lock", lock)
    with pytest.raises(UserError, match="another has just replaced"), opened_output(path):
        raise AssertionError("it was opened")
    assert path.is_file()


def test_only_what_stayed_empty_is_gone_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with opened_output(path):
        pass
    assert not path.exists()
    with opened_output(path) as stream:
        stream.write(b"a line\n")
    with opened_output(path) as stream:
        assert stream.read() == b"a line\n"
    assert path.exists()
