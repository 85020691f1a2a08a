"""What each item was answered, kept while an evaluation runs, so that a killed one goes on: OUTPUT.items.jsonl.

    {"header": {"format": 1, "model": …, "options": …, "batch_tokens": …, "versions": …, "tasks": {name: …}}}
    {"id": "crows-17", "ncut": 0, "nmerged": 0, "record": {…}, "task": "crows-pairs"}

    with opened_items(path, fresh=False) as items:
        items.begin(header)          (1) what is recorded is of the same model, options and data, or refused
        items.append(entries)        (2) those of a chunk, at once
        items.finish(names)          (3) in the order of the items, whoever recorded them when

A line that a killed process left half-written is cut off. The last header counts: one that has tasks more than the
one before it is written behind it. One process writes a file; its lock says so to others.
"""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage.atomic import replacing
from metaseq_plugin.storage.output_file import opened_output, unwritable

Header = Mapping[str, Any]
FORMAT = 1
TASKS = "tasks"


class Entry(NamedTuple):
    """One item's line."""

    task: str
    id: str
    ncut: int
    nmerged: int
    record: Mapping[str, Any]

    def line(self) -> bytes:
        """Raises ValueError for a number that JSON does not have."""
        return as_line(self._asdict())


OF_ENTRY: Mapping[str, type] = {"task": str, "id": str, "ncut": int, "nmerged": int, "record": dict}


class ItemsFile:
    """An open file.

    Args:
        stream: unbuffered, for reading and writing.

    Attributes:
        header: the last one in the file; None in one that is new.
        entries: (task, id) -> its entry.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        self.header: Optional[dict[str, Any]] = None
        self.entries: dict[tuple[str, str], Entry] = {}
        self.read()

    def read(self) -> None:
        """Raises UserError: the file holds something else."""
        self.stream.seek(0)
        raw = self.stream.read()
        end = raw.rfind(b"\n") + 1
        if not raw[end:] or is_beginning(raw[end:]):
            lines = raw[:end].splitlines()
        else:  # no line of ours looks so
            lines = raw.splitlines()
        for number, line in enumerate(lines, 1):
            self.take(line, number)
        self.stream.truncate(end)
        self.stream.seek(end)

    def take(self, line: bytes, number: int) -> None:
        row = parsed(line)
        if row is not None and isinstance(row.get("header"), dict):
            self.header = row["header"]
        elif row is not None and self.header is not None and is_entry(row):
            self.entries[row["task"], row["id"]] = Entry(**row)
        else:
            raise UserError(
                f"`--output` must be new or hold results of this command, but {self.path} has something else "
                f"in line {number}. Set another file, or --fresh to write this one anew."
            )

    def begin(self, header: Header) -> None:
        """Write ``header``, where it is not there; raises UserError where another one is (``difference``)."""
        header = json.loads(as_line(header))
        if self.header is not None:
            differs = difference(self.header, header)
            if differs:
                raise UserError(
                    f"`--output` must have recorded items of this model, these options and data, but {self.path} "
                    f"differs in {', '.join(differs)}. Set another --output, or --fresh to forget what it holds."
                )
        if self.header != header:
            self.write(as_line({"header": header}))
            self.header = dict(header)

    def append(self, entries: Sequence[Entry]) -> None:
        """Record the items of a chunk."""
        self.write(b"".join(entry.line() for entry in entries))
        self.entries.update(((entry.task, entry.id), entry) for entry in entries)

    def write(self, lines: bytes) -> None:
        left = memoryview(lines)
        try:
            while left:
                left = left[self.stream.write(left) :]
        except OSError as error:
            raise unwritable(self.path, error) from error

    def finish(self, names: Sequence[tuple[str, str]]) -> None:
        """Leave one header and the items ``names`` in their order, which ranks and earlier starts may have mixed."""
        rows = [as_line({"header": self.header}), *(self.entries[name].line() for name in names)]
        content = b"".join(rows)
        self.stream.seek(0)
        if self.stream.read() == content:
            return
        try:
            with replacing(self.path) as unfinished:
                unfinished.write_bytes(content)
        except OSError as error:
            raise unwritable(self.path, error) from error


def difference(before: Header, now: Header) -> list[str]:
    """The names in which a recorded header differs; it may lack tasks that are asked for now."""
    plain_before, plain_now = flat(before), flat(now)
    names = plain_before.keys() | {
        name
        for name in plain_now
        if name.split(" ")[0] != TASKS or name.split(" ")[1] in before[TASKS]
    }
    absent = object()
    return sorted(
        name for name in names if plain_before.get(name, absent) != plain_now.get(name, absent)
    )


def flat(header: Header) -> dict[str, Any]:
    """The values of a header by their path, "tasks crows-pairs protocol": so far as messages tell them apart."""
    found: dict[str, Any] = {}
    for name, value in header.items():
        if not isinstance(value, dict):
            found[name] = value
            continue
        for inner, inner_value in value.items():
            if name == TASKS:
                found.update({f"{name} {inner} {part}": of for part, of in inner_value.items()})
            else:
                found[f"{name} {inner}"] = inner_value
    return found


def as_line(row: Mapping[str, Any]) -> bytes:
    return (
        json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False).encode(
            "utf-8", "backslashreplace"
        )
        + b"\n"
    )


def parsed(line: bytes) -> Optional[dict[str, Any]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def is_entry(row: Mapping[str, Any]) -> bool:
    return row.keys() == OF_ENTRY.keys() and all(
        isinstance(row[name], kind) for name, kind in OF_ENTRY.items()
    )


def is_beginning(line: bytes) -> bool:
    """Whether a line without an end may be the beginning of one of ours."""
    return any(line[: len(begin)] == begin[: len(line)] for begin in (b'{"header": ', b'{"id": '))


@contextmanager
def opened_items(path: Path, fresh: bool) -> Iterator[ItemsFile]:
    """The file at ``path``, for this process alone; one that is new is gone again if nothing came.

    Args:
        fresh: forget what it holds.

    Raises:
        UserError: it cannot be written, another process writes it, or it holds something else.
    """
    with opened_output(path) as stream:
        if fresh:
            stream.truncate(0)
        yield ItemsFile(path, stream)
