"""Tokenizer files of a model folder: which there are, and what each side needs of them.

A data folder of ours holds ``dict.txt`` and either ``vocab.json`` with ``merges.txt`` (byte-level BPE)
or ``sentencepiece.model``. A Hugging Face OPT folder holds ``vocab.json`` with ``merges.txt``, or the
same inside ``tokenizer.json``. Token ids are the same numbers on both sides: ``dict.txt`` lists from
id 4 on what ``vocab.json`` calls by id, and the first four are fairseq's own.

A folder of metaseq's has ``gpt2-vocab.json`` with ``gpt2-merges.txt``, and these number the tokens; its
``dict.txt`` only gives their count to old versions, so it is not looked at where these are.
"""

import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.hf.config import GENERATION
from metaseq_plugin.storage.json_file import read as read_json
from metaseq_plugin.storage.json_file import write as write_json
from metaseq_plugin.tokenizers.base import DICTIONARY_FILE as DICT
from metaseq_plugin.tokenizers.base import DICTIONARY_MULTIPLE
from metaseq_plugin.tokenizers.base import SPECIAL_SYMBOLS as SPECIALS
from metaseq_plugin.tokenizers.byte_level import MERGES_FILE as MERGES
from metaseq_plugin.tokenizers.byte_level import VOCAB_FILE as VOCAB
from metaseq_plugin.tokenizers.sentencepiece import MODEL_FILE as SENTENCEPIECE

HF_TOKENIZER = "tokenizer.json"
HF_ADDED = "added_tokens.json"
METASEQ_VOCAB = "gpt2-vocab.json"
METASEQ_MERGES = "gpt2-merges.txt"


class BytePairs(NamedTuple):
    """A byte-level BPE tokenizer."""

    vocab: Dict[str, int]  # token to id
    merges: List[str]  # pairs joined by a space, first merged first
    added: Dict[str, int]  # tokens that no merge makes, such as <mask>


def read_byte_pairs(folder: Path) -> Optional[BytePairs]:
    """The byte-level BPE tokenizer of a folder, or None if it has none.

    Raises:
        UserError: files that cannot be read, or whose first four tokens are not fairseq's.
    """
    added: Dict[str, int] = {}
    pair = next(
        (
            pair
            for pair in ((VOCAB, MERGES), (METASEQ_VOCAB, METASEQ_MERGES))
            if all((folder / name).is_file() for name in pair)
        ),
        None,
    )
    if pair is not None:
        source = folder / pair[0]
        vocab = read_json(source)
        lines = (folder / pair[1]).read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
        if (folder / HF_ADDED).is_file():
            added = read_json(folder / HF_ADDED)
    elif (folder / HF_TOKENIZER).is_file():
        source = folder / HF_TOKENIZER
        content = read_json(source)
        model = content.get("model", {})
        if model.get("type") != "BPE" or "ByteLevel" not in json.dumps(
            content.get("pre_tokenizer")
        ):
            return None
        vocab = model["vocab"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        added = {entry["content"]: entry["id"] for entry in content.get("added_tokens", [])}
    else:
        return None
    first = tuple(sorted(vocab, key=lambda token: vocab[token])[: len(SPECIALS)])
    if first != SPECIALS or [vocab[token] for token in first] != list(range(len(SPECIALS))):
        raise UserError(
            f"{source} must give {', '.join(SPECIALS)} the ids 0 to 3 as OPT's does, but gives them to "
            f"{', '.join(first)}. Use the tokenizer that the OPT model was trained with."
        )
    return BytePairs(vocab, merges, {t: i for t, i in added.items() if t not in vocab})


def symbol_of(token: str, index: int) -> str:
    """The dictionary's name of a token: fairseq splits at white space, so there can be none in it."""
    return token if token.split() == [token] else f"<symbol{index}>"


def complete_vocab(tokens: Mapping[str, int], vocab_size: int) -> Dict[str, int]:
    """``tokens`` by id, every id up to the model's vocabulary given a token.

    Ids that nothing uses get fairseq's ``madeupword…``, except the last few that ``dict.txt`` pads
    anyway.

    Raises:
        UserError: an id that the model has no row for, or that two tokens have.
    """
    by_id: Dict[int, str] = {}
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
    fillers = _fillers(tokens)
    return {by_id[i] if i in by_id else next(fillers): i for i in range(length)}


def write_dictionary(path: Path, vocab: Mapping[str, int], vocab_size: int) -> None:
    """Write ``dict.txt`` of exactly ``vocab_size`` types; ``vocab`` is complete and in id order."""
    symbols = [symbol_of(token, index) for token, index in vocab.items()]
    fillers = _fillers(vocab)
    symbols += [next(fillers) for _ in range(vocab_size - len(symbols))]
    own = symbols[len(SPECIALS) :]
    path.write_text("".join(f"{symbol} 0\n" for symbol in own), encoding="utf-8")


def _fillers(used: Mapping[str, int]) -> Iterator[str]:
    """fairseq's names for types that nothing produces (``Dictionary.pad_to_multiple_``)."""
    return (name for n in count() if (name := f"madeupword{n:04d}") not in used)


def fairseq_tokenizer(source: Path, folder: Path, vocab_size: int) -> str:
    """Write dict.txt and the tokenizer files of ``source`` to ``folder``; what was done, in words."""
    if (source / DICT).is_file() and not (source / METASEQ_VOCAB).is_file():
        copied = _copy(source, folder, (DICT, VOCAB, MERGES, SENTENCEPIECE))
        return f"{', '.join(copied)} copied from {source}"
    tokenizer = read_byte_pairs(source)
    if tokenizer is None:
        names = [*SPECIALS, *map(str, range(len(SPECIALS), vocab_size))]
        write_dictionary(folder / DICT, {name: i for i, name in enumerate(names)}, vocab_size)
        return (
            f"no tokenizer that fairseq can use in {source}: {DICT} names every token by its id, "
            "so prompts are ids"
        )
    vocab = complete_vocab({**tokenizer.vocab, **tokenizer.added}, vocab_size)
    write_dictionary(folder / DICT, vocab, vocab_size)
    _write_byte_pairs(folder, vocab, tokenizer.merges)
    return f"{DICT}, {VOCAB} and {MERGES} of {len(vocab):,} tokens"


def hf_tokenizer(
    source: Path, folder: Path, ids: Optional[Mapping[str, int]], longest_input: int
) -> str:
    """Write the tokenizer files of ``source`` as Hugging Face reads them.

    Args:
        ids: of a data folder of ours, the dictionary: symbol to id.
        longest_input: in tokens.

    Raises:
        UserError: ``vocab.json`` and ``dict.txt`` number a token differently.
    """
    tokenizer = read_byte_pairs(source)
    if tokenizer is None:
        return _copied_for_us(source, folder, "Hugging Face")
    _check_ids(tokenizer, ids, source)
    _write_byte_pairs(folder, tokenizer.vocab, tokenizer.merges)
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    write_json(folder / "special_tokens_map.json", dict(names))
    settings: Dict[str, Any] = {
        **names,
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,  # OPT reads every text behind </s>
        "add_prefix_space": False,
        "errors": "replace",
        "model_max_length": longest_input,
    }
    write_json(folder / "tokenizer_config.json", settings)
    return f"{VOCAB} and {MERGES} of {len(tokenizer.vocab):,} tokens, for GPT2Tokenizer"


def metaseq_tokenizer(
    source: Path, folder: Path, vocab_size: int, ids: Optional[Mapping[str, int]]
) -> str:
    """Write the tokenizer files of ``source`` under metaseq's names; ``ids`` as above."""
    tokenizer = read_byte_pairs(source)
    if tokenizer is None:
        return _copied_for_us(source, folder, "metaseq")
    _check_ids(tokenizer, ids, source)
    vocab = complete_vocab({**tokenizer.vocab, **tokenizer.added}, vocab_size)
    write_dictionary(folder / DICT, vocab, vocab_size)
    _write_byte_pairs(folder, vocab, tokenizer.merges, METASEQ_VOCAB, METASEQ_MERGES)
    return f"{DICT}, {METASEQ_VOCAB} and {METASEQ_MERGES} of {len(vocab):,} tokens"


def _copied_for_us(source: Path, folder: Path, whose: str) -> str:
    copied = _copy(source, folder, (DICT, SENTENCEPIECE))
    if not copied:
        return f"none found in {source}; set --data to the folder that holds it"
    return (
        f"{', '.join(copied)} copied from {source}; {whose} has no tokenizer for them, so "
        "encode with this package"
    )


def _check_ids(tokenizer: BytePairs, ids: Optional[Mapping[str, int]], source: Path) -> None:
    if ids is None:
        return
    for token, index in tokenizer.vocab.items():
        found = ids.get(symbol_of(token, index))
        if found != index:
            raise UserError(
                f"{DICT} must number tokens as {VOCAB} does, but in {source} `{token}` is "
                f"{found} in one and {index} in the other. Set --data to the folder that the "
                "model was trained with."
            )


def write_generation_config(folder: Path) -> None:
    """Which tokens begin, end and pad a text, for Hugging Face's ``generate()``."""
    write_json(folder / "generation_config.json", {"_from_model_config": True, **GENERATION})


def _write_byte_pairs(
    folder: Path,
    vocab: Mapping[str, int],
    merges: List[str],
    vocab_name: str = VOCAB,
    merges_name: str = MERGES,
) -> None:
    (folder / vocab_name).write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *merges]
    (folder / merges_name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _copy(source: Path, folder: Path, names: tuple[str, ...]) -> List[str]:
    present = [name for name in names if (source / name).is_file()]
    for name in present:
        shutil.copyfile(source / name, folder / name)
    return present
