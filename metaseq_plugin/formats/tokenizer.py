"""A model folder's tokenizer for each side: fairseq, Hugging Face, metaseq.

A data folder of ours holds ``dict.txt`` and either a byte-level BPE or ``sentencepiece.model``; the folders
of the others hold a byte-level BPE in one of the forms of ``tokenizers/files.py``. Token ids are the same
numbers on all sides: ``dict.txt`` lists from id 4 on what ``vocab.json`` calls by id, and the first four
are fairseq's own.

In a folder of metaseq's, ``gpt2-vocab.json`` numbers the tokens; its ``dict.txt`` only gives their count to
old versions, so it is not looked at where that file is.
"""

from pathlib import Path
from typing import List, Mapping, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.hf.config import write_tokenizer_settings
from metaseq_plugin.tokenizers.dictionary import (
    DICTIONARY_FILE,
    SPECIAL_SYMBOLS,
    make_dictionary,
    numbered_dictionary,
)
from metaseq_plugin.tokenizers.files import (
    MERGES_FILE,
    METASEQ_MERGES,
    METASEQ_VOCAB,
    VOCAB_FILE,
    BytePairs,
    complete_vocab,
    read_byte_pairs,
    write_byte_pairs,
)
from metaseq_plugin.tokenizers.sentencepiece import MODEL_FILE
from metaseq_plugin.tokenizers.tokenizer_file import TokenizerFile

# All that is ever written here.
FILES = (DICTIONARY_FILE, VOCAB_FILE, MERGES_FILE, METASEQ_VOCAB, METASEQ_MERGES, MODEL_FILE)


def fairseq_tokenizer(source: Path, folder: Path, vocab_size: int) -> str:
    """Write dict.txt and the tokenizer files of ``source`` to ``folder``; what was done, in words."""
    if (source / DICTIONARY_FILE).is_file() and not (source / METASEQ_VOCAB).is_file():
        copied = _copy(source, folder, (DICTIONARY_FILE, VOCAB_FILE, MERGES_FILE, MODEL_FILE))
        return f"{', '.join(copied)} copied from {source}"
    pairs = read_byte_pairs(source)
    if pairs is None:
        numbered_dictionary(vocab_size).save(str(folder / DICTIONARY_FILE))
        return (
            f"no tokenizer that fairseq can use in {source}: {DICTIONARY_FILE} names every token by its id, "
            "so prompts are ids"
        )
    return _write_complete(folder, pairs, vocab_size, (VOCAB_FILE, MERGES_FILE))


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
    pairs = _read_checked(source, ids)
    if pairs is None:
        return _copied_for_us(source, folder, "Hugging Face")
    write_byte_pairs(folder, pairs.vocab, pairs.merges)
    write_tokenizer_settings(folder, longest_input)
    return f"{VOCAB_FILE} and {MERGES_FILE} of {len(pairs.vocab):,} tokens, for GPT2Tokenizer"


def metaseq_tokenizer(
    source: Path, folder: Path, vocab_size: int, ids: Optional[Mapping[str, int]]
) -> str:
    """Write the tokenizer files of ``source`` under metaseq's names; ``ids`` as above."""
    pairs = _read_checked(source, ids)
    if pairs is None:
        return _copied_for_us(source, folder, "metaseq")
    return _write_complete(folder, pairs, vocab_size, (METASEQ_VOCAB, METASEQ_MERGES))


def _write_complete(folder: Path, pairs: BytePairs, vocab_size: int, names: tuple[str, str]) -> str:
    """Write the tokenizer with a token for every id, and its dict.txt."""
    vocab = complete_vocab(pairs, vocab_size)
    make_dictionary(list(vocab)[len(SPECIAL_SYMBOLS) :]).save(str(folder / DICTIONARY_FILE))
    write_byte_pairs(folder, vocab, pairs.merges, names)
    return f"{DICTIONARY_FILE}, {names[0]} and {names[1]} of {len(vocab):,} tokens"


def _read_checked(source: Path, ids: Optional[Mapping[str, int]]) -> Optional[BytePairs]:
    pairs = read_byte_pairs(source)
    if pairs is None or ids is None:
        return pairs
    tokens = list(complete_vocab(pairs, len(ids)))
    symbols = make_dictionary(tokens[len(SPECIAL_SYMBOLS) :]).symbols
    for token, index in pairs.vocab.items():
        found = ids.get(symbols[index])
        if found != index:
            raise UserError(
                f"{DICTIONARY_FILE} must number tokens as {VOCAB_FILE} does, but in {source} `{token}` is "
                f"{found} in one and {index} in the other. Set --data to the folder that the "
                "model was trained with."
            )
    return pairs


def _copied_for_us(source: Path, folder: Path, whose: str) -> str:
    copied = _copy(source, folder, (DICTIONARY_FILE, MODEL_FILE))
    if not copied:
        return f"none found in {source}; set --data to the folder that holds it"
    return (
        f"{', '.join(copied)} copied from {source}; {whose} has no tokenizer for them, so "
        "encode with this package"
    )


def _copy(source: Path, folder: Path, names: tuple[str, ...]) -> List[str]:
    present = [name for name in names if (source / name).is_file()]
    for name in present:
        (folder / name).write_bytes(TokenizerFile(source / name).read())
    return present
