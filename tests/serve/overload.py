"""A hundred times as many clients as a server has room for, each of which asks again as soon as it is answered.

    python -m tests.serve.overload --seconds 60

The server has room for 4 prompts in its batch and 4 that wait; 800 clients ask at once. Each answer must be whole, or 429
with ``Retry-After``; then an ordinary request must be answered as before. Prints the figures; status 1 with
what went wrong.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from tests.serve.fuzz import log_of, memory_of, ordinary
from tests.serve.live import address, command, status_of, wait_for, write_model
from tests.serve.tiny import tiny_opt

FIELDS = {"prompt": "a", "max_tokens": 30, "min_tokens": 30}
# Room for 4 such prompts, and 4 that wait.
ROOM = {"--max-batch-tokens": 4 * (2 + 30), "--max-waiting": 4}


async def ask_again_and_again(url: str, end: float, statuses: Counter[str]) -> float:
    """One client; how long its slowest refusal took."""
    place, slowest = urlsplit(url), 0.0
    body = json.dumps(FIELDS).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    is_over = False  # whoever comes late asks once, too
    while not is_over:
        begun = time.monotonic()
        is_over = begun >= end
        try:
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            writer.write(head.encode() + body)
            answer = await reader.read(-1)
            writer.close()
        except OSError as error:
            statuses[type(error).__name__] += 1
            continue
        status = answer[9:12].decode()
        statuses[status] += 1
        if status == "429":
            slowest = max(slowest, time.monotonic() - begun)
            lines = answer.decode().lower().split("\r\n")
            if not any(
                line.startswith("retry-after: ") and line[13:].isdecimal() for line in lines
            ):
                statuses["429 without Retry-After"] += 1
    return slowest


async def overload(url: str, num_clients: int, seconds: float) -> tuple[Counter[str], float]:
    """The statuses that all clients saw, and how many seconds the slowest refusal took."""
    statuses: Counter[str] = Counter()
    end = time.monotonic() + seconds
    clients = [ask_again_and_again(url, end, statuses) for _ in range(num_clients)]
    return statuses, max(await asyncio.gather(*clients))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=800)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(tiny_opt(Path(folder)), Path(folder, "tiny"))
        room = [word for option in ROOM.items() for word in option]
        with command("--path", model, "--port", 0, *room) as process:
            assert process.stderr is not None
            log, url = log_of(process.stderr), address(process)
            wait_for(lambda: status_of(url) == 200)
            expected, before = ordinary(url), memory_of(process.pid)
            statuses, slowest = asyncio.run(overload(url, args.clients, args.seconds))
            begun = time.monotonic()
            is_equal = ordinary(url) == expected
            recovered, after = time.monotonic() - begun, memory_of(process.pid)
    found = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    lines = [
        f"{args.clients} clients, {args.seconds:g} s: {found}",
        f"slowest refusal {slowest:.2f} s; afterwards answered in {recovered:.2f} s",
        f"MiB resident {before:.0f}, then {after:.0f}",
        *log,
    ]
    print("\n".join(lines))
    return bool(log) or not is_equal or not set(statuses) <= {"200", "429"}


if __name__ == "__main__":
    sys.exit(main())
