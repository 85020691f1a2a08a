"""Readers of model folders and tokenizers under hypothesis: any JSON, any few bytes changed; a bounded budget."""

import json
import tempfile
from pathlib import Path
from typing import Any, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import corpus, doors
from tests.hostile.test_model_folders import doors_of, write_folder

EXAMPLES = 400  # of each file
numbers = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, 10**30, -1, 0])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3), max_leaves=6)  # fmt: skip


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in ``content``."""
    yield path
    below: Any = content if isinstance(content, dict) else ()
    below = range(len(content)) if isinstance(content, list) else below
    for key in below:
        yield from places(content[key], (*path, key))


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = content.copy()
    changed[path[0]] = replaced(content[path[0]], path[1:], value)
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("file", [name for name in corpus.FORMATS if name != "added_tokens.json"])
def test_no_reader_falls(file: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "folder"
        write_folder(file, folder)
        good = (folder / file).read_bytes()
        content = json.loads(good) if file.endswith(".json") else None
        ways = list(places(content)) if content is not None else []
        flips = st.lists(
            st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), min_size=1, max_size=20
        )

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(data=st.data())
        def falls(data: Any) -> None:
            if ways and data.draw(st.booleans()):
                raw = json.dumps(
                    replaced(content, data.draw(st.sampled_from(ways)), data.draw(values))
                ).encode()
            else:
                spoilt = bytearray(good)
                for place, byte in data.draw(flips):
                    spoilt[place] = byte
                raw = bytes(spoilt)
            case = [("fuzzed", raw)]
            out = Path(root) / "out"
            assert list(doors.complaints(folder, file, case, doors_of(file), out)) == []

        falls()
