"""The results of a file of prompts, one JSON object a line, in the order of the prompts.

    with opened_results(path) as results:
        done = results.held(keys, chunk_size)      # what an earlier run has left
        results.append(done, records)

Records are appended chunk by chunk. What a run that was killed has left of a chunk is written anew with
all of it: so the rest is continued in the same batches, and comes out the same to the last bit.
"""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.completion import Completion
from metaseq_plugin.generation.options import Prompt
from metaseq_plugin.storage.output_file import opened_output, unwritable

BEGIN = b'{"line": '  # of every record


def as_record(prompt: Prompt, completions: Sequence[Completion]) -> dict[str, Any]:
    """What is written of a prompt's results."""
    return {"prompt": prompt, "completions": [c._asdict() for c in completions]}


class ResultsFile:
    """An open file of results.

    Args:
        stream: unbuffered, for reading and writing.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        self.stream = stream
        self.ends: list[int] = []  # where each record that is kept ends, in bytes

    def held(self, keys: Sequence[tuple[int, str]], chunk_size: int) -> int:
        """How many results of an earlier run can stay, by number and key of each prompt.

        Raises:
            UserError: the file holds something else, or results of what was asked otherwise.
        """
        self.stream.seek(0)
        raw, end = self.stream.read(), 0
        for place, line in enumerate(raw.splitlines(keepends=True)):
            end += len(line)
            record = parsed(line)
            if record is None and is_torn(line):
                break
            if record is None:
                raise UserError(
                    f"`--output` must be new or hold results of this command, but {self.path} has "
                    f"something else in line {place + 1}. Set another file."
                )
            if place >= len(keys) or (record["line"], record["key"]) != keys[place]:
                raise UserError(
                    "`--output` must hold results of the same model, prompts and options, but in "
                    f"{self.path} line {place + 1} was asked otherwise. Set another file, or delete it."
                )
            self.ends.append(end)
        if len(self.ends) == len(keys):
            return len(keys)
        return len(self.ends) // chunk_size * chunk_size

    def append(self, done: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Write ``records`` behind the first ``done`` ones, and nothing else behind those."""
        start = self.ends[done - 1] if done else 0
        lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records]
        try:
            self.stream.truncate(start)
            self.stream.seek(start)
            left = memoryview(b"".join(lines))
            while left:
                left = left[self.stream.write(left) :]
        except OSError as error:
            raise unwritable(self.path, error) from error
        del self.ends[done:]
        for line in lines:
            start += len(line)
            self.ends.append(start)


def parsed(line: bytes) -> Optional[dict[str, Any]]:
    """The record of a whole line; None if it is none."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and {"line", "key"} <= record.keys() else None


def is_torn(line: bytes) -> bool:
    """Whether a line is the beginning of a record, as a killed run may leave it at the end."""
    return not line.endswith(b"\n") and line[: len(BEGIN)] == BEGIN[: len(line)]


@contextmanager
def opened_results(path: Path) -> Iterator[ResultsFile]:
    """The file at ``path``, for this process alone; one that is new is gone again if nothing came.

    Raises:
        UserError: it cannot be written, or another process writes it.
    """
    with opened_output(path) as stream:
        yield ResultsFile(path, stream)
