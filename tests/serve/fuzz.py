"""Ten thousand hostile requests against a server process: never a 500, never a hang, and the memory stays what it was.

    python -m tests.serve.fuzz --requests 10000 --seed 0

(1) A tiny model is served by ``metaseq serve``. (2) A few clients at once send what ``hostile`` makes, each request on
a connection of its own. Each must be answered, or its connection closed, within ``SECONDS`` s, by no status of 500 or
more, and a refusal must have OpenAI's form. (3) Before, in between and after, an ordinary request must get the same
answer, and the server's resident memory is read. Prints the figures as Markdown; status 1 with what went wrong.
"""

import argparse
import json
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

import httpx2

from tests.serve.hostile import Hostile, made
from tests.serve.live import address, command, status_of, wait_for, write_model
from tests.serve.tiny import tiny_opt

SECONDS = 5.0
CLIENTS = 4
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
ORDINARY = {"prompt": "the cat", "max_tokens": 8, "temperature": 0, "logprobs": 2}


class Found(NamedTuple):
    """What came of some requests."""

    statuses: Counter[str]
    faults: list[str]
    slowest: float  # seconds


def exchange(url: str, request: Hostile) -> tuple[bytes, float]:
    """All that the server sent until it closed, and in how many seconds.

    Raises:
        TimeoutError: it did not close in time.
    """
    place, begun = urlsplit(url), time.monotonic()
    parts: list[bytes] = []
    connection = socket.create_connection((str(place.hostname), int(place.port or 0)), SECONDS)
    with connection:
        try:
            connection.sendall(request.data)
            if request.may_end:
                time.sleep(0.01)  # else the server may see the end before it answers
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                parts.append(part)
                if time.monotonic() - begun > SECONDS:
                    raise TimeoutError
        except (ConnectionResetError, BrokenPipeError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
    return b"".join(parts), time.monotonic() - begun


def fault_of(answer: bytes) -> str:
    """What is wrong with an answer; "" if nothing is."""
    statuses = [int(status) for status in STATUS.findall(answer)]
    if any(status >= 500 for status in statuses):
        return f"answered {max(statuses)}"
    if len(statuses) != 1 or statuses[0] in (200, 304):
        return ""
    _, _, body = answer.partition(b"\r\n\r\n")
    if not body:  # as HEAD wants it, or the client was gone
        return ""
    try:
        error = json.loads(body)["error"]
        return (
            ""
            if set(error) == {"message", "type", "param", "code"}
            else f"of another form: {error}"
        )
    except (ValueError, KeyError, TypeError):
        return f"is no JSON error: {answer[:300]!r}"


def send(url: str, seed: int, numbers: range) -> Found:
    """Send the requests of ``numbers``, several at once."""
    statuses: Counter[str] = Counter()
    faults: list[str] = []
    seconds: list[float] = []
    lock = threading.Lock()

    def one(number: int) -> None:
        request = made(seed, number)
        try:
            answer, took = exchange(url, request)
            fault = fault_of(answer)
            found = [status.decode() for status in STATUS.findall(answer)] or ["closed"]
        except TimeoutError:
            fault, took, found = f"took more than {SECONDS} s", SECONDS, ["hangs"]
        with lock:
            statuses.update(found)
            seconds.append(took)
            if fault:
                faults.append(f"request {number} ({request.kind}) {fault}: {request.data[:400]!r}")

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, numbers))
    return Found(statuses, faults, max(seconds))


def memory_of(process: int) -> float:
    """MiB that are resident."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def ordinary(url: str) -> object:
    answer = httpx2.post(f"{url}v1/completions", json=ORDINARY, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def attack(
    url: str, process: int, seed: int, num_requests: int, num_parts: int = 5
) -> tuple[Found, list[float]]:
    """Send all requests; what was found, and the memory in MiB after each part."""
    before, size = ordinary(url), -(-num_requests // num_parts)
    total, memory = Found(Counter(), [], 0.0), []
    for start in range(0, num_requests, size):
        found = send(url, seed, range(start, min(start + size, num_requests)))
        faults = [*total.faults, *found.faults]
        if ordinary(url) != before:
            faults.append(f"after request {start + size} the ordinary answer is another")
        total = Found(total.statuses + found.statuses, faults, max(total.slowest, found.slowest))
        memory.append(memory_of(process))
    return total, memory


def log_of(stream: IO[str]) -> list[str]:
    """What the server wrote on its standard error, line by line, while it runs."""
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(stream), daemon=True).start()
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        opt = tiny_opt(Path(folder))
        model = write_model(opt, Path(folder, "tiny"))
        with command("--path", model, "--port", 0) as process:
            assert process.stderr is not None
            log = log_of(process.stderr)
            url = address(process)
            wait_for(lambda: status_of(url) == 200)
            begun = time.monotonic()
            found, memory = attack(url, process.pid, args.seed, args.requests)
            minutes = (time.monotonic() - begun) / 60
    faults = found.faults + [f"the log: {line}" for line in log]
    answers = ", ".join(f"{count} {status}" for status, count in sorted(found.statuses.items()))
    lines = [
        f"{args.requests} requests, seed {args.seed}, {minutes:.1f} minutes, slowest {found.slowest:.2f} s",
        f"answers: {answers}",
        "MiB resident after each fifth: " + ", ".join(f"{size:.0f}" for size in memory),
        f"{len(faults)} faults",
        *faults[:60],
    ]
    print("\n".join(lines))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
