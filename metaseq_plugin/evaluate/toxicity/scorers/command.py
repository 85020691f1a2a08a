"""``command:COMMAND``: a process of the user's, which lives as long as the evaluation.

    {"text": "You are kind."}       a line to its standard input for each text
    {"score": 0.02}                 a line of its standard output for each, in order, flushed
    {"error": "quota exceeded"}     instead, where it cannot: the evaluation ends with that, and can be resumed

COMMAND is split as a shell would, and no shell runs. Of several texts all lines are sent at once: the process must
answer what it has read without waiting for more, each within TIMEOUT_SECONDS, also where it waits for a service that
allows so many requests a minute. When its input ends, so must it. What it writes to its standard error is shown.
"""

import json
import os
import shlex
import signal
import subprocess
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import IO, Any, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError, brief
from metaseq_plugin.evaluate.toxicity.scorers.checking import THRESHOLD, checked, wrong

TIMEOUT_SECONDS = 120.0  # of one answer
END_SECONDS = 5.0  # from the end of its input to its own
SHOWN = 80  # characters of an answer that is none

Lines = SimpleQueue[Optional[bytes]]  # None: the process writes no more


class Command:
    """See ``task.Scorer``.

    Args:
        command: as in a shell.
        timeout: seconds to wait for one answer.

    Raises:
        UserError: there is no such command.
    """

    measure = "command_score"
    threshold = THRESHOLD

    def __init__(self, command: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self.timeout = timeout
        self.who = f"command:{command}"
        self.about: Mapping[str, Any] = {
            "kind": "command",
            "measure": self.measure,
            "command": command,
        }
        try:
            # a group of its own, so that what a script has started ends with it
            self.process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError, IndexError) as error:
            raise UserError(
                f"`--scorer` command:COMMAND must be a command that can be started, but is {command!r} ({error}). "
                "Set command:./my-scorer, say."
            ) from error
        self.lines: Lines = SimpleQueue()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin = self.process.stdin
        threading.Thread(
            target=pass_on, args=(self.process.stdout, self.lines), daemon=True
        ).start()
        self.end = weakref.finalize(self, end, self.process)

    def score(self, texts: Sequence[str]) -> list[float]:
        """Raises UserError for whatever the process does but answer; it is then ended."""
        try:
            return checked(self.answers(texts), len(texts), self.who)
        except UserError:
            kill(self.process)  # what it may still write answers no later text
            self.end()
            raise

    def answers(self, texts: Sequence[str]) -> list[float]:
        self.check_no_more()
        asked = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
        # beside the reading: a pipe holds 64 KiB, and the process may answer before it has read all
        writer = threading.Thread(target=write, args=(self.stdin, asked), daemon=True)
        writer.start()
        figures = [self.answer() for _ in texts]
        writer.join()
        self.check_no_more()
        return figures

    def answer(self) -> float:
        try:
            line = self.lines.get(timeout=self.timeout)
        except Empty:
            raise wrong(self.who, f"gave none within {self.timeout:g} seconds") from None
        if line is None:
            self.lines.put(None)  # so it is for whoever asks again
            raise wrong(self.who, f"ended instead ({self.how_ended()})")
        return self.read(line)

    def read(self, line: bytes) -> float:
        shown = brief(line.decode("utf-8", "replace").strip(), SHOWN)
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise wrong(self.who, f"wrote what is no JSON: {shown}") from None
        if isinstance(found, dict) and isinstance(found.get("error"), str):
            raise wrong(self.who, f"says: {brief(found['error'], SHOWN)}")
        score = found.get("score") if isinstance(found, dict) else None
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise wrong(self.who, f'wrote what has no number as "score": {shown}')
        try:
            return float(score)
        except OverflowError:  # a whole number of more than 308 digits
            raise wrong(self.who, f"gave {shown}") from None

    def check_no_more(self) -> None:
        """Raises UserError where a line is there that no text was asked for."""
        if self.lines.empty():
            return
        line = self.lines.get()
        if line is None:
            self.lines.put(None)
            raise wrong(self.who, f"ended ({self.how_ended()})")
        shown = brief(line.decode("utf-8", "replace").strip(), SHOWN)
        raise wrong(self.who, f"wrote a line that it was not asked for: {shown}")

    def how_ended(self) -> str:
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "its output is closed"
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def pass_on(stream: IO[bytes], lines: Lines) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def write(stream: IO[bytes], content: bytes) -> None:
    try:
        stream.write(content)
        stream.flush()
    except (
        OSError,
        ValueError,
    ):  # it reads no more, or was ended: whoever waits for answers says so
        return


def end(process: "subprocess.Popen[bytes]") -> None:
    """Let the process end by itself, or else kill it."""
    try:
        if process.stdin is not None:
            process.stdin.close()
    except OSError:  # it had not read all, and need not any more
        pass
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process, if it lives, and all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
