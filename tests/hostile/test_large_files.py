"""Files that are small for a disk and large for a reader: refused, or read, within 10 s and 500 MB.

Each is opened in a process of its own, whose memory is measured above what the imports took.
"""

import json
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.files import BYTE_CHARACTERS
from metaseq_plugin.tokenizers.tokenizer_file import MAX_BYTES, MAX_JSON_VALUES, MAX_SYMBOLS
from tests.formats.folders import SPECIALS
from tests.hostile import corpus, doors
from tests.hostile.test_model_folders import doors_of, write_folder

MAX_MEGABYTES = 500


def vocabulary(size: int) -> bytes:
    tokens = [*SPECIALS, *BYTE_CHARACTERS]
    tokens += [f"token{number}" for number in range(size - len(tokens))]
    return json.dumps({token: number for number, token in enumerate(tokens)}).encode()


def header(size: int) -> bytes:
    tensors = b",".join(
        b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(size)
    )
    return struct.pack("<Q", len(tensors) + 2) + b"{" + tensors + b"}"


# file and name -> its content, what is said of it ("": it is read)
LARGE: dict[tuple[str, str], tuple[Callable[[], bytes], str]] = {
    ("vocab.json", "a million symbols"): (lambda: vocabulary(10**6), "at most 500,000 symbols"),
    ("vocab.json", "all its symbols"): (lambda: vocabulary(MAX_SYMBOLS), ""),
    ("vocab.json", "empty lists"): (lambda: b"[" + b"[]," * (MAX_JSON_VALUES // 2 - 1) + b"[]]", "must map symbols"),
    ("vocab.json", "too many lists"): (lambda: b"[" + b"[]," * MAX_JSON_VALUES + b"[]]", "more than 3,000,000 values"),
    ("merges.txt", "ten million lines"): (lambda: b"a b\n" * 10**7, "at most 500,000 symbols"),
    ("dict.txt", "ten million lines"): (lambda: b"a 1\n" * 10**7, "at most 500,000 symbols"),
    ("dict.txt", "one long line"): (lambda: b"a" * MAX_BYTES, "a symbol and its count"),
    ("dict.txt", "too long"): (lambda: b"a" * (MAX_BYTES + 1), "at most 67,108,864 bytes"),
    ("sentencepiece.model", "ten million pieces"): (lambda: b"\n\x03\n\x01a" * 10**7, "at most 16,777,216 bytes"),
    ("sentencepiece.model", "three million pieces"): (lambda: b"\n\x03\n\x01a" * 3 * 10**6, "must be a SentencePiece model"),
    ("config.json", "empty lists"): (lambda: b'{"a":[' + b"[]," * 2 * 10**6 + b"[]]}", "`model_type`"),
    ("config.json", "too long"): (lambda: b"[" * 10**7, "at most 8,388,608 bytes"),
    (corpus.SHARD, "many tensors"): (lambda: header(60_000), "unlisted"),
    (corpus.SHARD, "too many tensors"): (lambda: header(10**6), "a header of at most 4,194,304 bytes"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("file", "name"), LARGE)
def test_memory_and_time_are_bounded(file: str, name: str, tmp_path: Path) -> None:
    content, sentence = LARGE[file, name]
    folder = tmp_path / "folder"
    write_folder(file, folder)
    (folder / file).write_bytes(content())
    if file == "vocab.json":
        (folder / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "tests.hostile.test_large_files", file, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    seconds, megabytes, said = ended.stdout.rstrip("\n").split("|", 2)
    assert float(seconds) < doors.MAX_SECONDS
    assert float(megabytes) < MAX_MEGABYTES
    assert sentence in said if sentence else said == ""


def main(file: str, folder: Path) -> None:
    """Open ``folder`` by the first door of ``file``; prints seconds, megabytes and what is said."""
    before, started, said = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time(), ""
    try:
        doors_of(file)[0](folder, folder.parent / "out")
    except UserError as error:
        said = str(error)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(time.time() - started, used, said, sep="|")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
