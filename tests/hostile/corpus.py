"""The corpus: hostile versions of every file of a Hugging Face folder and of a tokenizer, made anew each time."""

import io
import json
import struct
from pathlib import Path
from typing import Any, Callable, Iterator

import sentencepiece
import torch
from fairseq.data import Dictionary

from tests.hostile.damage import LONG, ODD_TEXT, Case, damaged_bytes, damaged_json

TORCH = "pytorch_model.bin"
SHARD = "model-00001-of-00001.safetensors"
SIZES = (
    "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "ffn_dim",
    "max_position_embeddings", "word_embed_proj_dim",
)  # fmt: skip


def configs(folder: Path) -> Iterator[Case]:
    raw = (folder / "config.json").read_bytes()
    content = json.loads(raw)
    yield from damaged_bytes(raw)
    yield from damaged_json(content, [[name] for name in content])
    for name in SIZES:
        for size in (10**9, 10**11, 8 * 10**15):
            yield f"{name} is {size:,}", json.dumps({**content, name: size}).encode()
    yield "twice the key", raw[:-1] + b', "hidden_size": 1000000000}'


def indexes(folder: Path) -> Iterator[Case]:
    raw = (folder / "model.safetensors.index.json").read_bytes()
    content = json.loads(raw)
    name = next(iter(content["weight_map"]))
    yield from damaged_bytes(raw)
    yield from damaged_json(content, [["weight_map"], ["weight_map", name]])
    outside = ["../outside.safetensors", "/etc/passwd", "..", ".", "", "a/b", "\x00", "vocab.json"]
    for file in [*outside, "\ud800", LONG, "é" * 200, ODD_TEXT]:
        changed = {"weight_map": {**content["weight_map"], name: file}}
        yield f"names {file[:30]!r}", json.dumps(changed).encode()


def weights(folder: Path) -> Iterator[Case]:
    raw = (folder / SHARD).read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header, values = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    name = next(name for name in header if name.endswith("fc1.weight"))
    yield from damaged_bytes(raw, flips=8)
    fields = [[name], [name, "dtype"], [name, "shape"], [name, "data_offsets"]]
    fields += [[name, "shape", 0], [name, "data_offsets", 1]]
    for what, changed in damaged_json(header, fields):
        yield f"header: {what}", struct.pack("<Q", len(changed)) + changed + values
    for dtype in ("BOOL", "I64", "F64", "F8_E4M3", "C64", "F4", "U8", "I32"):
        changed = json.dumps({**header, name: {**header[name], "dtype": dtype}}).encode()
        yield f"header: {dtype}", struct.pack("<Q", len(changed)) + changed + values
    for dtype, factor in (("F8_E4M3", 4), ("F8_E5M2", 4), ("I16", 2), ("U64", 0.5), ("C64", 0.5)):
        rows, columns = header[name]["shape"]
        same = {**header[name], "dtype": dtype, "shape": [int(rows * factor), columns]}
        changed = json.dumps({**header, name: same}).encode()
        yield (
            f"header: {dtype} of the same bytes",
            struct.pack("<Q", len(changed)) + changed + values,
        )
    for shape in ([0, 10**18], [2**63, 0], [1] * 100, [10**9, 10**9, 10**9]):
        changed = json.dumps(
            {**header, name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
        ).encode()
        yield f"header: shape {shape}"[:60], struct.pack("<Q", len(changed)) + changed + values
    for number in (0, 1, 2**20, 100 * 2**20, 2**40, 2**64 - 1):
        yield f"a header of {number:,} bytes", struct.pack("<Q", number) + raw[8:]


def torch_weights(folder: Path) -> Iterator[Case]:
    """Older folders hold a pickle of tensors; what it may hold without any code is hostile enough."""
    raw = (folder / TORCH).read_bytes()
    yield from damaged_bytes(raw)
    held = torch.load(io.BytesIO(raw), weights_only=True)
    name, embedding = "model.decoder.layers.0.fc1.weight", "model.decoder.embed_tokens.weight"
    one, sound = torch.ones(1, 1), held[name]
    changes: dict[str, dict[Any, Any]] = {
        "a number for a name": {7: one},
        "text for a tensor": {name: "text"},
        "no tensor": {name: None},
        "one value shown 10^12 times": {embedding: one.expand(10**12, 32)},
        "one value shown as a weight": {name: one.expand(sound.shape)},
        "a twin of one value": {"lm_head.weight": one.expand(held[embedding].shape)},
        "sparse": {name: sound.to_sparse()},
        "a sparse embedding": {embedding: held[embedding].to_sparse(), "lm_head.weight": one},
        "compressed rows": {name: sound.to_sparse_csr()},
        "quantized": {name: torch.quantize_per_tensor(sound, 0.1, 0, torch.qint8)},
        "of 8 bits": {name: sound.to(torch.float8_e4m3fn)},
        "complex": {name: sound.to(torch.complex64)},
        "without values": {name: torch.empty(0, 10**15)},
        "a number": {name: torch.tensor(1.0)},
        "of the meta device": {name: torch.empty(sound.shape, device="meta")},
        "a name of control characters": {ODD_TEXT[:-1]: one},
        "an output of another type": {"lm_head.weight": held[embedding].long()},
    }
    for what, change in changes.items():
        saved = io.BytesIO()
        torch.save({**held, **change}, saved)
        yield what, saved.getvalue()
    others: list[Any] = [[], {}, 7, "text", {"model": held}, torch.ones(2)]
    for content in others:
        saved = io.BytesIO()
        torch.save(content, saved)
        yield (
            f"all is a {type(content).__name__} of {len(saved.getvalue()):,} bytes",
            saved.getvalue(),
        )


def vocabularies(folder: Path) -> Iterator[Case]:
    raw = (folder / "vocab.json").read_bytes()
    vocab = json.loads(raw)
    last = max(vocab, key=lambda token: vocab[token])
    yield from damaged_bytes(raw)
    yield from damaged_json(vocab, [["<s>"], ["!"], [last]])
    for token in ("\ud800", "", " ", "\n", "\x1b[2J", "\u2028", LONG, "a b", "#fairseq:overwrite"):
        yield f"holds {token[:20]!r}", json.dumps({**vocab, token: len(vocab)}).encode()


def merges(folder: Path) -> Iterator[Case]:
    raw = (folder / "merges.txt").read_bytes()
    yield from damaged_bytes(raw)
    lines = (
        "a ",
        " a",
        " ",
        "a  b",
        "t h e",
        "\ud800 a",
        LONG,
        "a b " + LONG,
        "< s>",
        "! !",
        "\x1b",
    )
    for line in lines:
        yield f"line {line[:20]!r}", raw + line.encode("utf-8", "surrogatepass") + b"\n"
    yield "every line twice", raw + raw
    yield "turned around", b"\n".join(reversed(raw.split(b"\n")))


def added_tokens(folder: Path) -> Iterator[Case]:
    raw = b'{"<mine>": 283, "<s>": 0}'
    yield from damaged_bytes(raw, flips=2)
    yield from damaged_json(json.loads(raw), [["<mine>"]])


def whole_tokenizers(folder: Path) -> Iterator[Case]:
    raw = (folder / "tokenizer.json").read_bytes()
    content = json.loads(raw)
    yield from damaged_bytes(raw)
    fields: list[list[Any]] = [
        ["model"], ["model", "type"], ["model", "vocab"], ["model", "vocab", "!"], ["model", "merges"],
        ["model", "merges", 0], ["pre_tokenizer"], ["pre_tokenizer", "type"], ["added_tokens"],
        ["added_tokens", 0], ["added_tokens", 0, "content"], ["added_tokens", 0, "id"],
    ]  # fmt: skip
    yield from damaged_json(content, fields)


def dictionaries(folder: Path) -> Iterator[Case]:
    raw = (folder / "dict.txt").read_bytes()
    yield from damaged_bytes(raw)
    lines = ("word", "word many", "word 1.5", "word " + "9" * 5_000, "word -1", "! 1", "! 1 #fairseq:overwrite",
             "#fairseq:overwrite", " 1", "", "\x85 1", "\x1b[2J 1", LONG, "\ud800 1", "\u0663 \u0663")  # fmt: skip
    for line in lines:
        yield f"line {line[:20]!r}", raw + line.encode("utf-8", "surrogatepass") + b"\n"


def sentence_pieces(folder: Path) -> Iterator[Case]:
    raw = (folder / "sentencepiece.model").read_bytes()
    yield from damaged_bytes(raw, flips=7)
    for seed in range(20):
        yield from (
            (f"{name}, seed {seed}", spoilt)
            for name, spoilt in damaged_bytes(raw, flips=3, seed=seed)
            if "flipped" in name
        )


def write_sentence_pieces(folder: Path) -> None:
    """A model of 300 pieces, its bytes and its dictionary."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "the dog ate the hat"] * 5),
        model_writer=model, model_type="bpe", vocab_size=290, byte_fallback=True,
        bos_id=0, pad_id=1, eos_id=2, unk_id=3, normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    (folder / "sentencepiece.model").write_bytes(model.getvalue())


def write_dictionary(folder: Path) -> None:
    """The dict.txt of the folder's vocab.json."""
    dictionary = Dictionary()
    for token in list(json.loads((folder / "vocab.json").read_bytes()))[4:]:
        dictionary.add_symbol(token)
    dictionary.pad_to_multiple_(8)
    dictionary.save(str(folder / "dict.txt"))


# The file, and its hostile versions.
FORMATS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "config.json": configs,
    "model.safetensors.index.json": indexes,
    SHARD: weights,
    TORCH: torch_weights,
    "vocab.json": vocabularies,
    "merges.txt": merges,
    "added_tokens.json": added_tokens,
    "tokenizer.json": whole_tokenizers,
    "dict.txt": dictionaries,
    "sentencepiece.model": sentence_pieces,
}
