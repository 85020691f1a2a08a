"""How a file of a stranger may be wrong: bytes and JSON values, mutated with a fixed seed.

    for name, raw in damaged_bytes(good): …       cut, flipped, empty, another encoding
    for name, raw in damaged_json(content): …     each field dropped, of another type, absurd, …

A name says what was done, so that a failure can be told.
"""

import copy
import json
import random
from typing import Any, Iterator

Case = tuple[str, bytes]

NESTED = 100_000
LONG = "x" * 5_000
ODD_TEXT = "\x1b[2J\r\n\x00\u202e\ud800"
# In the place of any value.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "text": "three",
    "long text": LONG,
    "control characters": ODD_TEXT,
    "a list": [[], {}],
    "an object": {"a": {"b": []}},
    "zero": 0,
    "negative": -1,
    "a fraction": 2.5,
    "2^62": 2**62,
    "10^15": 10**15,
    "10^400": 10**400,
    "NaN": float("nan"),
    "infinite": float("inf"),
}


def damaged_bytes(good: bytes, flips: int = 6, seed: int = 1) -> Iterator[Case]:
    """Versions of ``good`` that are damaged as a whole."""
    generator = random.Random(seed)
    yield "empty", b""
    yield "not UTF-8", b"\xff\xfe" + good[:50]
    yield "UTF-16", good[:2_000].decode("latin-1").encode("utf-16")
    yield "zeros", bytes(1_000)
    yield "nested lists", b"[" * NESTED
    yield "nested objects", b'{"a":' * NESTED
    yield "twice", good + good
    for part in (1, 3, 5, 7):
        yield f"cut to {part}/8", good[: len(good) * part // 8]
    for number in range(flips):
        spoilt = bytearray(good)
        for _ in range(4**number):
            spoilt[generator.randrange(len(spoilt))] = generator.randrange(256)
        yield f"{4**number} bytes flipped", bytes(spoilt)


def damaged_json(content: Any, fields: list[list[Any]]) -> Iterator[Case]:
    """``content`` with each field, a path of keys and places, dropped and replaced; JSON's own tricks too."""
    for name, value in VALUES.items():
        yield f"all is {name}", json.dumps(value).encode()
    for path in fields:
        yield f"{path} dropped", json.dumps(_changed(content, path, None, drop=True)).encode()
        for name, value in VALUES.items():
            yield f"{path} is {name}", json.dumps(_changed(content, path, value)).encode()
        whole = json.dumps(_changed(content, path, "HERE"))
        yield f"{path} nested", whole.replace('"HERE"', "[" * NESTED, 1).encode()
        yield f"{path} of 5,000 digits", whole.replace('"HERE"', "9" * 5_000, 1).encode()
        yield f"{path} is 1e999", whole.replace('"HERE"', "1e999", 1).encode()


def _changed(content: Any, path: list[Any], value: Any, drop: bool = False) -> Any:
    changed = copy.deepcopy(content)
    *way, last = path
    holder = changed
    for key in way:
        holder = holder[key]
    if drop:
        del holder[last]
    else:
        holder[last] = value
    return changed
