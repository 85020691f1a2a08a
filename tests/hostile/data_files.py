"""Hostile data files: corpora, their packing, binarised splits and indexes, by mutation of good ones with a fixed seed."""

import gzip
import json
import random
import struct
from typing import Callable, Dict, Iterator, Tuple

from backports import zstd

TEXTS = [f"The {number} text of a corpus, with a few words." for number in range(40)]
GOOD_LINES = [json.dumps({"text": text, "meta": {"id": 1}}).encode() for text in TEXTS]
GOOD_JSONL = b"\n".join(GOOD_LINES) + b"\n"
GOOD_TXT = "\n\n".join(TEXTS).encode()

HOSTILE_LINES: Dict[str, bytes] = {
    "no key": b'{"txt": "a"}',
    "null": b'{"text": null}',
    "a number": b'{"text": 7}',
    "a list": b'{"text": ["a"]}',
    "an object": b'{"text": {"text": "a"}}',
    "not an object": b'["text"]',
    "nothing": b"null",
    "infinity": b'{"text": "a", "n": Infinity, "m": NaN, "k": -1e999}',
    "a huge number": b'{"text": "a", "n": ' + b"9" * 100_000 + b"}",
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"text": ' * 100_000,
    "deep behind the text": b'{"text": "a", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a key twice": b'{"text": "a", "text": 3}',
    "long keys": json.dumps({"k" * 1_000_000: 1}).encode(),
    "control keys": json.dumps({"\x1b[2J\x07": 1}).encode(),
    "a lone surrogate": b'{"text": "a\\ud800b"}',
    "a surrogate key": b'{"\\udfff": "a"}',
    "a raw control character": b'{"text": "a\x1b[31m\x00b"}',
    "an escaped control character": b'{"text": "a\\u001b[2J\\u0000b"}',
    "not UTF-8": b'{"text": "\xff\xfe"}',
    "overlong UTF-8": b'{"text": "\xc0\xaf"}',
    "UTF-16": '{"text": "a"}'.encode("utf-16"),
    "a mark inside": b"\xef\xbb\xbf" + GOOD_LINES[0],
    "cut off": GOOD_LINES[0][:-9],
    "two in a line": GOOD_LINES[0] * 2,
    "a pickle": b"cos\nsystem\n(S'touch canary'\ntR.",
    "a return": GOOD_LINES[0] + b"\r" + GOOD_LINES[1],
    "a long word": json.dumps({"text": "a" * 1_000_000}).encode(),
    "many marks": json.dumps({"text": "a" + "\u0301" * 100_000}).encode(),
    "empty": b'{"text": ""}',
    "white space": b'{"text": " \\t\\n"}',
}

PACKINGS: Dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": zstd.compress,
}


def damaged(good: bytes, chance: random.Random) -> Tuple[str, bytes]:
    """``good`` cut off, with bytes of its beginning or anywhere changed, a piece twice or left out, or behind zeros."""
    kind = chance.choice(["cut", "flipped", "header", "doubled", "left out", "zeros", "tail"])
    content, place = bytearray(good), chance.randrange(len(good))
    end = min(len(good), place + chance.randrange(1, 64))
    if kind == "cut":
        del content[place:]
    elif kind in ("flipped", "header"):
        reach = min(len(good), 64) if kind == "header" else len(good)
        for _ in range(chance.randrange(1, 9)):
            content[chance.randrange(reach)] = chance.choice([0, 1, 127, 128, 255])
    elif kind == "doubled":
        content[place:place] = content[place:end]
    elif kind == "left out":
        del content[place:end]
    elif kind == "zeros":
        content[place:end] = bytes(end - place)
    else:
        content += bytes(chance.choice([0, 255]) for _ in range(chance.randrange(1, 64)))
    return f"{kind} at {place}", bytes(content)


def hostile_corpora(seed: int, count: int) -> Iterator[Tuple[str, bytes]]:
    """(name of the file, content) of every hostile line among good ones, and of ``count`` damaged files."""
    for number, line in enumerate(HOSTILE_LINES.values()):
        yield f"line{number}.jsonl", GOOD_JSONL + line + b"\n" + GOOD_JSONL
    for name, content in (
        ("empty", b""),
        ("one", b"\n"),
        ("mark", b"\xef\xbb\xbf"),
        ("nul", b"\0"),
    ):
        for suffix in (".jsonl", ".txt.zst"):
            yield name + suffix, content
    yield "other.jsonl.gz", zstd.compress(GOOD_JSONL)
    yield "other.jsonl.zst", gzip.compress(GOOD_JSONL)
    chance = random.Random(seed)
    for number in range(count):
        form = chance.choice([".jsonl", ".txt"])
        packing = chance.choice(list(PACKINGS))
        good = PACKINGS[packing](GOOD_JSONL if form == ".jsonl" else GOOD_TXT)
        yield f"damaged{number}{form}{packing}", damaged(good, chance)[1]


# Offset and format of the fields of an .idx, and the numbers to put there.
INDEX_FIELDS = {
    "version": (9, "<Q"),
    "type": (17, "<B"),
    "documents": (18, "<Q"),
    "size": (26, "<i"),
}
NUMBERS = [0, 1, 2, 6, 9, 10, 127, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]


def hostile_indexes(good: bytes, seed: int, count: int) -> Iterator[Tuple[str, bytes]]:
    """(what was done, content) of an .idx with each field at each number, and of ``count`` damaged ones."""
    for field, (place, form) in INDEX_FIELDS.items():
        for number in NUMBERS:
            width = struct.calcsize(form)
            low = number % 256**width
            raw = low.to_bytes(width, "little")
            yield f"{field} {number}", good[:place] + raw + good[place + width :]
    chance = random.Random(seed)
    for _ in range(count):
        yield damaged(good, chance)
