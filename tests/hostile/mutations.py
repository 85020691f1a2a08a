"""Hostile files of any format: a sound tree of values, one place of it after the other made something else.

    for name, spoiled in mutations(state, random.Random(0), count=50): …

A tree is dictionaries, lists, tuples and leaves. ``spoilings`` are the values that take a leaf's or a branch's
place; ``bytes_of`` spoils the file itself. Everything follows from the seed.
"""

import copy
import random
from typing import Any, Callable, Dict, Iterator, List, Tuple

DROP = object()  # take the key or the item out
HUGE_TEXT = "x" * 100_000


def nested(depth: int = 200) -> Any:
    """A list in a list in a list …"""
    held: Any = []
    for _ in range(depth):
        held = [held]
    return held


def endless() -> Any:
    """A dictionary that holds itself."""
    held: Dict[str, Any] = {}
    held["self"] = held
    return held


def doubling(levels: int = 40) -> Any:
    """2⁴⁰ values in 40 lists."""
    held: Any = [0]
    for _ in range(levels):
        held = [held, held]
    return held


VALUES: Dict[str, Callable[[], Any]] = {
    "dropped": lambda: DROP,
    "nothing": lambda: None,
    "true": lambda: True,
    "zero": lambda: 0,
    "negative": lambda: -1,
    "huge": lambda: 10**18,
    "endless number": lambda: 10**6000,
    "fraction": lambda: 0.5,
    "NaN": lambda: float("nan"),
    "infinite": lambda: float("inf"),
    "text": lambda: "text",
    "empty text": lambda: "",
    "long text": lambda: HUGE_TEXT,
    "control characters": lambda: "\x1b]0;owned\x07\n\r",
    "interpolation": lambda: "${oc.env:HOME}",
    "missing": lambda: "???",
    "outside": lambda: "../../outside",
    "empty list": lambda: [],
    "list": lambda: [1, "two", None],
    "empty dictionary": lambda: {},
    "dictionary": lambda: {"a": 1, 2: "b"},
    "nested": nested,
    "endless": endless,
    "doubling": doubling,
}


def places(tree: Any, path: Tuple[Any, ...] = ()) -> Iterator[Tuple[Any, ...]]:
    """The path of every branch and leaf but the root."""
    items: List[Tuple[Any, Any]] = []
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, (list, tuple)):
        items = list(enumerate(tree))
    for key, held in items:
        yield (*path, key)
        yield from places(held, (*path, key))


def replaced(tree: Any, path: Tuple[Any, ...], value: Any) -> Any:
    """``tree`` with ``value`` at ``path``; what lies beside the path is shared."""
    key, rest = path[0], path[1:]
    made = dict(tree) if isinstance(tree, dict) else list(tree)
    if rest:
        made[key] = replaced(tree[key], rest, value)
    elif value is DROP:
        del made[key]
    else:
        made[key] = value
    return type(tree)(made) if isinstance(tree, tuple) and type(tree) is tuple else made


def mutations(
    tree: Any, seed: random.Random, count: int, under: Tuple[Any, ...] = ()
) -> Iterator[Tuple[str, Any]]:
    """(name, tree) of ``count`` trees with one place changed, at or below ``under``; places come in turn."""
    found = [path for path in places(tree) if path[: len(under)] == under]
    seed.shuffle(found)
    kinds = list(VALUES)
    for number in range(count):
        path = found[number % len(found)]
        kind = kinds[number % len(kinds)] if number < len(kinds) else seed.choice(kinds)
        yield f"{'.'.join(map(str, path))}: {kind}", replaced(tree, path, VALUES[kind]())


def bytes_of(sound: bytes, seed: random.Random, count: int) -> Iterator[Tuple[str, bytes]]:
    """(name, content) of ``count`` files that were cut off, emptied, flipped, or are something else."""
    yield "empty", b""
    yield "text", b"no file of this kind\n"
    yield "zeros", bytes(len(sound))
    for _ in range((count - 3) // 2):
        end = seed.randrange(1, len(sound))
        yield f"cut off at {end}", sound[:end]
        spoiled = bytearray(copy.copy(sound))
        places_ = [seed.randrange(len(sound)) for _ in range(8)]
        for place in places_:
            spoiled[place] ^= 1 << seed.randrange(8)
        yield f"flipped at {places_}", bytes(spoiled)
