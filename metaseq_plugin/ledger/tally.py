"""How far a start of a run is, in a small file mapped into memory: right after a kill -9, too.

    tally = TallyFile(path, start=0)
    tally.write(Tally(start=0, update=17, done=17, …))      # microseconds
    read_tally(path)

The file holds two slots that are written in turn, each with its number last: a process that is killed while it writes
leaves the other one whole, and the reader takes the whole one with the larger number. The file is as large from the
beginning as it ever is, so that a full disk does not stop it.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

# What the time of a start goes into; every moment counts to one of them.
ACCOUNTS = ("starting", "computing", "waiting", "saving", "validating", "rewinding")
MAGIC = b"metaseq tally 1\n"
BODY = struct.Struct(f"<qqqqqqdd{len(ACCOUNTS)}d")
NUMBER = struct.Struct("<q")
SLOT_BYTES = NUMBER.size + BODY.size
SIZE = len(MAGIC) + 2 * SLOT_BYTES


class Tally(NamedTuple):
    """How far a start of a run is.

    Attributes:
        start: which start of the run.
        first_update: the update that it went on from; -1: it has not come so far.
        update: the run's updates, its number of the last one.
        done: updates that this start has made, those that it went past for a spike (--on-spike skip) among them;
            above ``update - first_update`` after a rewind.
        unwritten: lines of the ledger that could not be written.
        has_ended: 1 once its ``end`` is written.
        began: when its process started, in seconds since 1970.
        seen: when it was last alive, to half a second.
        accounts: seconds by ``ACCOUNTS``; together ``seen - began``.
    """

    start: int
    first_update: int = -1
    update: int = 0
    done: int = 0
    unwritten: int = 0
    has_ended: int = 0
    began: float = 0.0
    seen: float = 0.0
    accounts: Tuple[float, ...] = (0.0,) * len(ACCOUNTS)

    @property
    def seconds_by_account(self) -> "dict[str, float]":
        return dict(zip(ACCOUNTS, self.accounts, strict=True))


class TallyFile:
    """The file, made anew.

    Raises:
        OSError: it cannot be written, or the disk has no room for it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(MAGIC + bytes(2 * SLOT_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with path.open("r+b") as stream:
            self._bytes = mmap.mmap(stream.fileno(), SIZE)
        self._number = 0

    def write(self, tally: Tally) -> None:
        self._number += 1
        place = len(MAGIC) + self._number % 2 * SLOT_BYTES
        *fields, accounts = tally
        BODY.pack_into(self._bytes, place + NUMBER.size, *fields, *accounts)
        NUMBER.pack_into(self._bytes, place, self._number)

    def close(self) -> None:
        self._bytes.flush()
        self._bytes.close()


def read_tally(path: Path) -> Optional[Tally]:
    """What the file says; None where there is none, or none of ours.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(SIZE)
    except FileNotFoundError:
        return None
    if len(raw) != SIZE or not raw.startswith(MAGIC):
        return None
    slots = [raw[len(MAGIC) + i * SLOT_BYTES :][:SLOT_BYTES] for i in range(2)]
    number, slot = max((NUMBER.unpack_from(slot)[0], slot) for slot in slots)
    if number < 1:
        return None
    fields = BODY.unpack_from(slot, NUMBER.size)
    return Tally._make([*fields[: -len(ACCOUNTS)], fields[-len(ACCOUNTS) :]])
