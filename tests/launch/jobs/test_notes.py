"""An agent's events on a disk that takes none: said, kept, written later, and counted."""

import errno
import os
from pathlib import Path

import pytest

from metaseq_plugin.launch.folders.events import read_events
from metaseq_plugin.launch.jobs.notes import Notes
from metaseq_plugin.launch.spec import LAUNCH


class Disk:
    """``os.write`` that a full disk refuses."""

    def __init__(self) -> None:
        self.is_full, self.write = False, os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.write(descriptor, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(os, "write", disk)
    return disk


def test_what_a_full_disk_refuses_is_said_and_written_later(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes(tmp_path, "17")
    notes.record("started", start=0)
    disk.is_full = True
    notes.record("failed", reason="rank 1 was ended", update=40)
    notes.record("restarting", attempt=1)
    assert [event["kind"] for event in notes.events()] == ["started", "failed", "restarting"]
    assert [event["kind"] for event in read_events(tmp_path).events] == ["started"]
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == (
        f"The run goes on, but its events in {tmp_path} cannot be written (No space left on device): "
        "failed {'reason': 'rank 1 was ended', 'update': 40}"
    )
    times = [event["time"] for event in notes.waiting]
    disk.is_full = False
    notes.record("started", start=1)
    assert not notes.may_lack_some
    events = read_events(tmp_path).events
    assert [event["kind"] for event in events] == ["started", "failed", "restarting", "started"]
    assert [event["time"] for event in events[1:3]] == times
    assert {event["job"] for event in events} == {"17"}


def test_a_folder_that_is_gone_is_no_end(tmp_path: Path) -> None:
    (tmp_path / LAUNCH).write_text("no folder")
    notes = Notes(tmp_path, "17")
    notes.record("started", start=0)
    assert [event["kind"] for event in notes.events()] == ["started"]
    assert notes.may_lack_some


def test_events_of_other_jobs_are_not_its_own(tmp_path: Path) -> None:
    Notes(tmp_path, "16").record("failed", update=3)
    notes = Notes(tmp_path, "17")
    notes.record("started", start=0)
    assert [event["kind"] for event in notes.events()] == ["started"]
