"""Show the log of a run: one rank's last lines, what is added to it, or the last error of all ranks.

    metaseq launch logs runs/a                  the last 20 lines of rank 0
    metaseq launch logs runs/a -f --rank 3      and what is added, over restarts, until Ctrl-C or the run's end
    metaseq launch logs runs/a --errors         how each rank that failed said so, the one that began it first

The logs are RUN/launch/logs/rank-N.log. Characters that a terminal would obey are spelled out.
"""

import argparse
import codecs
import os
import re
import sys
import time
from pathlib import Path
from typing import BinaryIO, Iterator, Optional

from metaseq_plugin.compat.errors import UserError, printable
from metaseq_plugin.launch.folders.events import read_events
from metaseq_plugin.launch.folders.last_words import errors_of
from metaseq_plugin.launch.folders.progress import LOGS
from metaseq_plugin.launch.folders.reading import one_run
from metaseq_plugin.launch.folders.standing import ending
from metaseq_plugin.launch.spec import LAUNCH

RANK_OPTION, LINES_OPTION = "--rank", "--lines"
POLL_SECONDS = 0.2
END_SECONDS = 2.0  # between two looks whether the run has ended
FIRST_BYTES = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run_folder", type=Path, metavar="RUN", help="a run folder")
    add("-f", "--follow", action="store_true", help="go on with what is added, over restarts")
    add(RANK_OPTION, type=int, default=0, metavar="N", help="of which rank (default: %(default)s)")
    add(LINES_OPTION, type=int, default=20, metavar="N",
        help="how many of the last lines first (default: %(default)s)")  # fmt: skip
    add("--errors", action="store_true", help="the last error of every rank instead")


def run(args: argparse.Namespace) -> None:
    """Print what was asked for; Ctrl-C ends following."""
    for option, value in ((RANK_OPTION, args.rank), (LINES_OPTION, args.lines)):
        if value < 0:
            raise UserError(f"`{option}` must be 0 or more, but is {value}. Set such a number.")
    save_dir = one_run(args.run_folder)
    try:
        if args.errors:
            print(errors_of(save_dir), flush=True)  # noqa: T201
            return
        log = log_of(save_dir, args.rank, args.follow)
        for text in following(save_dir, log, args.lines) if args.follow else last(log, args.lines):
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not args.follow:
            raise
    except BrokenPipeError:  # of `| head`
        sys.stderr.close()
    except OSError as error:
        raise UserError(
            f"{error.filename} must be readable, but is not ({error.strerror}). Check its rights."
        ) from error


def log_of(save_dir: Path, rank: int, may_come: bool) -> Path:
    """The log of a rank.

    Raises:
        UserError: it is not there and, unless it ``may_come``, nobody waits for it.
    """
    folder = save_dir / LAUNCH / LOGS
    log = folder / f"rank-{rank}.log"
    if log.is_file():
        return log
    ranks = ranks_of(save_dir)
    if not ranks:
        if may_come:
            return log
        raise UserError(
            f"RUN must have begun to have logs, but {folder} has none. "
            "Wait with -f, or look with `metaseq launch status`."
        )
    raise UserError(
        f"`{RANK_OPTION}` must be a rank with a log ({ranks[0]} to {ranks[-1]}), but is {rank}. Set one of them."
    )


def ranks_of(save_dir: Path) -> list[int]:
    """The ranks that have a log, in order."""
    names = [path.name for path in (save_dir / LAUNCH / LOGS).glob("rank-*.log")]
    matches = [re.fullmatch(r"rank-(\d+)\.log", name) for name in names]
    return sorted(int(match.group(1)) for match in matches if match)


def last(log: Path, lines: int) -> Iterator[str]:
    """The last ``lines`` lines of a log."""
    with log.open("rb") as stream:
        yield visible(last_lines(stream, lines).decode("utf-8", "replace"))


def last_lines(stream: BinaryIO, lines: int) -> bytes:
    """The last ``lines`` lines of an open file, of which all up to the end of them has then been read."""
    end, most = stream.seek(0, os.SEEK_END), FIRST_BYTES
    while True:
        begin = stream.seek(max(0, end - most))
        text = stream.read(end - begin)
        if begin == 0 or text.count(b"\n") > lines:
            return b"".join(text.splitlines(keepends=True)[-lines:] if lines else [])
        most *= 4


def following(save_dir: Path, log: Path, lines: int) -> Iterator[str]:
    """The last lines and what is added, until the run has ended and its log is read."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    stream: Optional[BinaryIO] = None
    looked = 0.0
    try:
        while True:
            if stream is None and log.is_file():
                stream = log.open("rb")
                yield visible(decoder.decode(last_lines(stream, lines)))
            elif stream is not None and was_replaced(stream, log):
                stream.close()
                stream = log.open("rb")
            is_over = False
            if (
                time.monotonic() - looked > END_SECONDS
            ):  # before reading: what it wrote last is read
                looked, is_over = time.monotonic(), ending(read_events(save_dir).events) is not None
            added = stream.read() if stream is not None else b""
            if added:
                yield visible(decoder.decode(added))
            if is_over:
                return
            time.sleep(POLL_SECONDS)
    finally:
        if stream is not None:
            stream.close()


def was_replaced(stream: BinaryIO, log: Path) -> bool:
    """Whether the name now means another file, or the file has become shorter than what was read."""
    try:
        found = log.stat()
    except FileNotFoundError:
        return False
    is_same = os.path.samestat(found, os.fstat(stream.fileno()))
    return not is_same or found.st_size < stream.tell()


def visible(text: str) -> str:
    """``text``, in which line ends and tabs stay, and other control characters are spelled out."""
    return "\n".join(
        "\t".join(map(printable, line.removesuffix("\r").split("\t"))) for line in text.split("\n")
    )
