"""docs/security.md says the limits that the code has, and keeps what it promises of names, links and terminals."""

import json
import re
from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.reading import MAX_UNPACKED_RATIO, UNPACKED_AT_LEAST
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve import bodies, connections
from metaseq_plugin.serve.page_files import POLICY
from metaseq_plugin.storage import json_file, safetensors_file
from metaseq_plugin.tokenizers import sentencepiece, tokenizer_file
from tests.hostile import corpus
from tests.hostile.test_model_folders import write_folder

PAGE = Path(__file__).resolve().parents[2] / "docs/security.md"
MIB = 2**20


def test_the_limits_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| (.+?) \| (\d.*?) \|$", PAGE.read_text("utf-8"), re.MULTILINE))
    assert rows == {
        "`config.json`, an index of weights": f"{json_file.MAX_BYTES // MIB} MiB",
        "a file of a tokenizer, `dict.txt`": f"{tokenizer_file.MAX_BYTES // MIB} MiB",
        "`sentencepiece.model`": f"{sentencepiece.MAX_MODEL_BYTES // MIB} MiB",
        "symbols of a vocabulary": f"{tokenizer_file.MAX_SYMBOLS:,}",
        "values in a tokenizer's JSON": f"{tokenizer_file.MAX_JSON_VALUES:,}",
        "the header of a safetensors file": f"{safetensors_file.MAX_HEADER_BYTES // MIB} MiB",
        "what a packed corpus file unpacks to": f"{MAX_UNPACKED_RATIO} times its size, or "
        f"{UNPACKED_AT_LEAST // MIB} MiB where that is more",
    }


def test_the_limits_of_the_server_are_those_of_the_code() -> None:
    section = PAGE.read_text("utf-8").split("## What `metaseq serve` promises")[1]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.MULTILINE))
    head, body = rows["a request's head"], rows["a body"]
    assert head.startswith(f"whole in {connections.HEAD_SECONDS:g} seconds,")
    most, seconds = bodies.MAX_BODY_BYTES // MIB, bodies.READ_SECONDS
    assert body == f"at most {most} MiB, whole in {seconds:g} seconds"
    assert f" {connections.WRITE_SECONDS:g} seconds " in rows["an answer"]
    assert rows["connections"].startswith(f"at most {connections.MAX_CONNECTIONS:,},")
    assert "default-src 'self'" in POLICY
    assert "frame-ancestors 'none'" in POLICY


def test_a_shard_that_is_a_link_is_read_and_a_name_elsewhere_is_not(tmp_path: Path) -> None:
    """As Hugging Face's cache has it: snapshots/… links to ../../blobs/…"""
    folder, blobs = tmp_path / "snapshots" / "one", tmp_path / "blobs"
    folder.parent.mkdir()
    blobs.mkdir()
    write_folder("model.safetensors.index.json", folder)
    for name in (corpus.SHARD, "config.json", "vocab.json", "merges.txt"):
        (folder / name).rename(blobs / name)
        (folder / name).symlink_to(Path("../../blobs") / name)
    assert OPT.from_pretrained(folder).score([[5, 6]])
    index = folder / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    for elsewhere in (f"../../blobs/{corpus.SHARD}", str(blobs / corpus.SHARD)):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(names, elsewhere)}))
        with pytest.raises(UserError, match="must name files of its own folder, but names"):
            OPT.from_pretrained(folder)


def test_a_terminal_is_not_steered(tmp_path: Path) -> None:
    write_folder("config.json", tmp_path / "folder")
    config = tmp_path / "folder" / "config.json"
    content = {**json.loads(config.read_text()), "model_type": "\x1b[2Jgpt2\r\n"}
    config.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        OPT.from_pretrained(tmp_path / "folder")
    assert str(error.value).isprintable()
    assert "gpt2" in str(error.value)
