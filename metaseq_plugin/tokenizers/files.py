"""A byte-level BPE on disk, read and written in every form that it comes in.

    vocab.json + merges.txt               ours, and Hugging Face's, with its added_tokens.json
    gpt2-vocab.json + gpt2-merges.txt     metaseq's
    tokenizer.json                        Hugging Face's newer one, all in one file

``vocab.json`` gives the id of each token, ``merges.txt`` the pairs of tokens that are joined, first
things first. Tokens are spelled in GPT-2's way, one printable character for each byte. The same checks
hold for all forms, but a model's folder may leave ids out, which ``complete_vocab`` then fills.
"""

import json
from itertools import count
from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_MULTIPLE, SPECIAL_SYMBOLS
from metaseq_plugin.tokenizers.tokenizer_file import TokenizerFile

VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
METASEQ_VOCAB, METASEQ_MERGES = "gpt2-vocab.json", "gpt2-merges.txt"
HF_TOKENIZER, HF_ADDED = "tokenizer.json", "added_tokens.json"
NUM_BYTES = 256


def _byte_characters() -> list[str]:
    """GPT-2's spelling of the 256 byte values as printable characters."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(NUM_BYTES) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    characters.update({byte: chr(NUM_BYTES + place) for place, byte in enumerate(others)})
    return [characters[byte] for byte in range(NUM_BYTES)]


BYTE_CHARACTERS = _byte_characters()


class BytePairs(NamedTuple):
    """A byte-level BPE, as the files of a folder give it."""

    vocab: dict[str, int]  # token to id, in the order of ids
    merges: list[tuple[str, str]]  # first merged first
    added: dict[str, int]  # tokens that no merge makes, such as <mask>; some are in vocab too


def read_byte_pairs(folder: Path) -> Optional[BytePairs]:
    """The byte-level BPE of a folder, in whichever form, or None if it has none.

    Raises UserError for files that cannot be read or do not belong together.
    """
    for names in ((VOCAB_FILE, MERGES_FILE), (METASEQ_VOCAB, METASEQ_MERGES)):
        vocab_file, merges_file = (TokenizerFile(folder / name) for name in names)
        if vocab_file.path.is_file() and merges_file.path.is_file():
            vocab = parse_vocab(vocab_file.read(), vocab_file, may_leave_out=True)
            merges = parse_merges(merges_file.read(), merges_file, vocab)
            added_file = TokenizerFile(folder / HF_ADDED)
            added = added_file.json(added_file.read()) if added_file.path.is_file() else {}
            return BytePairs(vocab, merges, _checked_ids(added, added_file))
    whole = TokenizerFile(folder / HF_TOKENIZER)
    return _parse_whole(whole.read(), whole) if whole.path.is_file() else None


def write_byte_pairs(
    folder: Path,
    vocab: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    names: tuple[str, str] = (VOCAB_FILE, MERGES_FILE),
) -> None:
    """Write the two files."""
    vocab_name, merges_name = names
    (folder / vocab_name).write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / merges_name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def parse_vocab(raw: bytes, file: TokenizerFile, may_leave_out: bool = False) -> dict[str, int]:
    """Token → id of a ``vocab.json``, in the order of ids.

    Raises UserError unless the four special symbols have the ids 0–3, each byte has a token, and,
    but for ``may_leave_out``, the ids are 0…n-1.
    """
    return _checked_vocab(file.json(raw), file, may_leave_out)


def _checked_ids(content: Any, file: TokenizerFile) -> dict[str, int]:
    if isinstance(content, dict) and all(type(number) is int for number in content.values()):
        file.check_num_symbols(len(content))
        for symbol in content:
            file.check_symbol(symbol)
        return content
    raise UserError(
        f"{file.subject} must map symbols to ids, but {file.it} does not. "
        "Use the tokenizer's vocab.json (not tokenizer.json)."
    )


def _checked_vocab(content: Any, file: TokenizerFile, may_leave_out: bool) -> dict[str, int]:
    ids = _checked_ids(content, file)
    vocab = dict(sorted(ids.items(), key=lambda entry: entry[1]))
    if not may_leave_out and list(vocab.values()) != list(range(len(vocab))):
        raise UserError(
            f"{file.subject} must give each id from 0 on to one symbol, but {file.it} has gaps or "
            "doubles. Save it again from the tokenizer."
        )
    first = list(vocab)[: len(SPECIAL_SYMBOLS)]
    if [vocab.get(symbol) for symbol in SPECIAL_SYMBOLS] != list(range(len(SPECIAL_SYMBOLS))):
        raise UserError(
            f"{file.subject} must start with {', '.join(SPECIAL_SYMBOLS)} at ids 0 to 3, but "
            f"{file.it} starts with {', '.join(first)}. Train it with these special tokens."
        )
    missing = [character for character in BYTE_CHARACTERS if character not in vocab]
    if missing:
        raise UserError(
            f"{file.subject} must hold a symbol for each of the 256 bytes, but {file.it} lacks "
            f"{len(missing)} of them ('{missing[0]}' first). Use a byte-level vocab.json."
        )
    return vocab


def parse_merges(
    raw: bytes, file: TokenizerFile, vocab: Mapping[str, int]
) -> list[tuple[str, str]]:
    """The pairs of a ``merges.txt`` in order; UserError where they do not fit ``vocab``."""
    file.check_num_symbols(raw.count(b"\n"))
    lines = file.text(raw).split("\n")
    numbered = enumerate((line.rstrip("\r") for line in lines), start=1)
    pairs = {
        f"line {number}": line.split(" ")
        for number, line in numbered
        if line and not line.startswith("#version")
    }
    return _checked_merges(pairs, file, vocab)


def _checked_merges(
    pairs: Mapping[str, Sequence[str]], file: TokenizerFile, vocab: Mapping[str, int]
) -> list[tuple[str, str]]:
    """The pairs, which are given by their places in the file."""
    merges = []
    for place, pair in pairs.items():
        if len(pair) != 2 or "" in pair or not {*pair, "".join(pair)} <= vocab.keys():
            raise UserError(
                f"{file.subject} must hold pairs of symbols of the vocabulary, but {place} of "
                f"{file.it} is {' '.join(pair)[:80]!r}. Use vocab.json and merges.txt of one tokenizer."
            )
        merges.append((pair[0], pair[1]))
    return merges


def _parse_whole(raw: bytes, file: TokenizerFile) -> Optional[BytePairs]:
    """What a ``tokenizer.json`` holds, or None where it is of another kind."""
    content = file.json(raw)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE":
        return None
    if not _is_byte_level(content.get("pre_tokenizer")):
        return None
    vocab = _checked_vocab(model.get("vocab"), file, may_leave_out=True)
    merges, added = model.get("merges", []), content.get("added_tokens", [])
    if not isinstance(merges, list) or not isinstance(added, list):
        raise UserError(
            f"{file.subject} must list `merges` and `added_tokens`, but {file.it} does not. "
            "Save it again from the tokenizer."
        )
    pairs = {
        f"merge {number}": _pair_of(written, file) for number, written in enumerate(merges, start=1)
    }
    tokens = dict(_added_of(entry, file) for entry in added)
    return BytePairs(vocab, _checked_merges(pairs, file, vocab), _checked_ids(tokens, file))


def _is_byte_level(pre_tokenizer: Any) -> bool:
    """Whether text is cut as GPT-2 does, by a step of its own or by one of a ``Sequence``."""
    if not isinstance(pre_tokenizer, dict):
        return False
    steps = pre_tokenizer.get("pretokenizers")
    return any(
        isinstance(step, dict) and step.get("type") == "ByteLevel"
        for step in (pre_tokenizer, *(steps if isinstance(steps, list) else ()))
    )


def _pair_of(written: Any, file: TokenizerFile) -> list[str]:
    """A pair as ``"a b"``, or as ``["a", "b"]`` in newer files."""
    parts = written.split(" ") if isinstance(written, str) else written
    if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
        return parts
    raise UserError(
        f"{file.subject} must hold pairs of symbols in `merges`, but {file.it} holds "
        f"a {type(written).__name__}. Save it again from the tokenizer."
    )


def _added_of(entry: Any, file: TokenizerFile) -> tuple[str, Any]:
    if isinstance(entry, dict) and isinstance(entry.get("content"), str) and "id" in entry:
        return entry["content"], entry["id"]
    raise UserError(
        f"{file.subject} must give `content` and `id` of each of `added_tokens`, but {file.it} does "
        "not. Save it again from the tokenizer."
    )


def complete_vocab(pairs: BytePairs, vocab_size: int) -> dict[str, int]:
    """All tokens by id, every id up to the model's vocabulary given one.

    Ids that nothing uses get fairseq's ``madeupword…``, except the last few, with which dictionaries
    are padded anyway.

    Raises UserError for an id that the model has no row for, or that two tokens have.
    """
    tokens = {**pairs.added, **pairs.vocab}
    by_id: dict[int, str] = {}
    for token, index in tokens.items():
        if not 0 <= index < vocab_size:
            raise UserError(
                f"The tokenizer's ids must be below the model's vocabulary of {vocab_size:,}, but "
                f"`{token}` has {index:,}. Use the tokenizer that the model was trained with."
            )
        if index in by_id:
            raise UserError(
                f"The tokenizer must give each id to one token, but gives {index:,} to `{token}` and "
                f"`{by_id[index]}`. Save it again from the tokenizer."
            )
        by_id[index] = token
    length = max(by_id) + 1
    if vocab_size - length >= DICTIONARY_MULTIPLE:
        length = vocab_size
    fillers = (name for n in count() if (name := f"madeupword{n:04d}") not in tokens)
    return {by_id[i] if i in by_id else next(fillers): i for i in range(length)}
