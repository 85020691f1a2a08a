"""The door to the tokenizers: open the one that lies in a folder, or the one that options name.

    tokenizer = from_folder("data")
    assert tokenizer.decode(tokenizer.encode("Hello world")) == "Hello world"

A folder names its tokenizer by its files, under the names that Hugging Face uses where it has any:

    vocab.json + merges.txt    byte-level BPE, OPT's kind
    sentencepiece.model        SentencePiece
    dict.txt                   beside either: fairseq's dictionary, the same symbols in the same order
"""

import argparse
from pathlib import Path
from typing import Any, Optional, Union

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.base import Tokenizer, TokenizerFile
from metaseq_plugin.tokenizers.byte_level import MERGES_OPTION, VOCAB_OPTION, ByteLevelBPE
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE
from metaseq_plugin.tokenizers.sentencepiece import MODEL_OPTION, SentencePiece

KINDS: tuple[type[Tokenizer], ...] = (ByteLevelBPE, SentencePiece)
BPE_NAMES = tuple(kind.bpe_name for kind in KINDS)
TOKENIZER_FILES = tuple(name for kind in KINDS for name in kind.file_names)


def has_tokenizer(folder: Union[str, Path]) -> bool:
    """Whether ``from_folder`` would find all files of one kind."""
    return any(all((Path(folder) / name).is_file() for name in k.file_names) for k in KINDS)


def from_folder(folder: Union[str, Path]) -> Tokenizer:
    """The tokenizer whose files lie in ``folder``.

    Raises UserError if there is none, or if a ``dict.txt`` beside it lists other symbols.
    """
    folder = Path(folder)
    present = [k for k in KINDS if all((folder / name).is_file() for name in k.file_names)]
    if len(present) != 1:
        raise UserError(
            f"A tokenizer folder must hold either vocab.json and merges.txt or sentencepiece.model,"
            f" but '{folder}' holds {'both' if present else 'neither'}. Name the folder that "
            "`metaseq prepare` or `metaseq convert` wrote."
        )
    files = (TokenizerFile(folder / name) for name in present[0].file_names)
    tokenizer = from_files(present[0].bpe_name, *files)
    if (folder / DICTIONARY_FILE).is_file():
        tokenizer.check_dict(folder / DICTIONARY_FILE)
    return tokenizer


def from_files(bpe_name: str, *files: TokenizerFile) -> Tokenizer:
    """The tokenizer of kind ``bpe_name`` from its files, in the order of ``file_names``."""
    if bpe_name == ByteLevelBPE.bpe_name:
        vocab, merges = files
        return ByteLevelBPE(vocab, merges)
    (model,) = files
    return SentencePiece(model)


def add_file_options(parser: argparse.ArgumentParser, use: str) -> None:
    """The options that name the tokenizer's files; ``use`` says what a command does with them."""
    parser.add_argument(VOCAB_OPTION, metavar="FILE", help=f"vocab.json {use}")
    parser.add_argument(MERGES_OPTION, metavar="FILE", help="merges.txt that belongs to it")
    parser.add_argument(MODEL_OPTION, metavar="FILE", help=f"SentencePiece model {use}")


def check_file_options(args: argparse.Namespace) -> None:
    """Raise UserError unless tokenizer files were given whole and of one kind, or not at all.

    Sets ``args.bpe`` to the kind of the files where it is None.
    """
    byte_level, sentence_piece = BPE_NAMES
    if (args.opt_bpe_vocab is None) != (args.opt_bpe_merges is None):
        missing = VOCAB_OPTION if args.opt_bpe_vocab is None else MERGES_OPTION
        raise UserError(
            f"`{VOCAB_OPTION}` and `{MERGES_OPTION}` must be given together, but `{missing}` is "
            "missing. Set both, or neither."
        )
    kinds = {byte_level: args.opt_bpe_vocab, sentence_piece: args.opt_sentencepiece_model}
    named = [kind for kind, file in kinds.items() if file is not None]
    if len(named) > 1 or (named and args.bpe not in (None, *named)):
        raise UserError(
            f"`--bpe` must be of the kind of the tokenizer files, but is {args.bpe or 'unset'} with "
            f"files of {' and '.join(named)}. Give the files of one kind."
        )
    args.bpe = args.bpe or (named or [byte_level])[0]


def given_files(args: argparse.Namespace) -> list[TokenizerFile]:
    """The tokenizer files that were given; none if a vocabulary is to be trained."""
    given = {
        VOCAB_OPTION: args.opt_bpe_vocab,
        MERGES_OPTION: args.opt_bpe_merges,
        MODEL_OPTION: args.opt_sentencepiece_model,
    }
    return [TokenizerFile(Path(file), option) for option, file in given.items() if file is not None]


def from_bpe_options(bpe: Any, data: str) -> Tokenizer:
    """The tokenizer of fairseq's ``--bpe`` and its options, or of the files in the data folder."""
    name = None if bpe is None else bpe["_name"]
    if name is None:
        if not has_tokenizer(data):
            raise UserError(
                f"`--bpe` must be set where `DATA` holds no tokenizer, but is not, and {data} holds "
                f"none. Set --bpe {BPE_NAMES[0]} {VOCAB_OPTION} vocab.json {MERGES_OPTION} merges.txt, "
                "or put these files into it."
            )
        return from_folder(data)
    if name not in BPE_NAMES:
        raise UserError(
            f"`--bpe` must be one of {', '.join(BPE_NAMES)} with this task, but is {name}. "
            "Set one of them."
        )
    if name == ByteLevelBPE.bpe_name:
        return byte_level_bpe(bpe["opt_bpe_vocab"], bpe["opt_bpe_merges"])
    return sentence_piece(bpe["opt_sentencepiece_model"])


def byte_level_bpe(vocab: Optional[str], merges: Optional[str]) -> ByteLevelBPE:
    """What ``--bpe opt_bpe`` stands for; raises UserError where an option is missing."""
    return ByteLevelBPE(_required(vocab, VOCAB_OPTION), _required(merges, MERGES_OPTION))


def sentence_piece(model: Optional[str]) -> SentencePiece:
    """What ``--bpe opt_sentencepiece`` stands for; raises UserError where the option is missing."""
    return SentencePiece(_required(model, MODEL_OPTION))


def _required(value: Optional[str], option: str) -> TokenizerFile:
    if value is None:
        raise UserError(
            f"`{option}` must be set with this `--bpe`, but is not. Set it to the tokenizer's file; "
            "`metaseq prepare` leaves it in its data folder."
        )
    return TokenizerFile(Path(value), option)
