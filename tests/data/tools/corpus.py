"""Corpora with planted faults, and the tools run on them."""

import argparse
import json
import random
from functools import lru_cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Iterable, Union

Document = Union[str, bytes, dict]


@lru_cache(maxsize=1)
def words() -> list[str]:
    """Made up, so that they are the same on every Python."""
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    return ["".join(pair) for pair in product(syllables, syllables)]


def essays(count: int, num_words: int = 120, seed: int = 0) -> list[str]:
    """Texts of random words: no two have five words in a row in common."""
    generator, known = random.Random(seed), words()
    return [" ".join(generator.choices(known, k=num_words)) for _ in range(count)]


def nearly(text: str, changed: int = 1) -> str:
    """``text`` with this many of its words replaced, evenly spread."""
    parts = text.split()
    for number in range(changed):
        parts[(number + 1) * len(parts) // (changed + 1)] = "changed"
    return " ".join(parts)


def as_jsonl(documents: Iterable[Document]) -> bytes:
    """Bytes stand as they are, texts become records."""
    lines = []
    for document in documents:
        record = {"text": document} if isinstance(document, str) else document
        lines.append(record if isinstance(record, bytes) else json.dumps(record).encode())
    return b"".join(line + b"\n" for line in lines)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def run(tool: ModuleType, *argv: object) -> None:
    parser = argparse.ArgumentParser()
    tool.add_arguments(parser)
    tool.run(parser.parse_args([str(argument) for argument in argv]))


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
