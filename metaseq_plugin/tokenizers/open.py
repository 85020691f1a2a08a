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
from typing import Any, Iterable, Optional, Union

from fairseq.data import Dictionary

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.byte_level import MERGES_OPTION, VOCAB_OPTION, ByteLevelBPE
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE
from metaseq_plugin.tokenizers.sentencepiece import MODEL_OPTION, SentencePiece
from metaseq_plugin.tokenizers.tokenizer_file import TokenizerFile

KINDS: dict[str, Union[type[ByteLevelBPE], type[SentencePiece]]] = {
    kind.bpe_name: kind for kind in (ByteLevelBPE, SentencePiece)
}
BPE_NAMES = tuple(KINDS)
TOKENIZER_FILES = tuple(name for kind in KINDS.values() for name in kind.file_names)


def has_tokenizer(folder: Union[str, Path]) -> bool:
    """Whether ``from_folder`` would find all files of one kind."""
    return any(all((Path(folder) / n).is_file() for n in k.file_names) for k in KINDS.values())


def from_folder(folder: Union[str, Path]) -> Tokenizer:
    """The tokenizer whose files lie in ``folder``.

    Raises UserError if there is none, or if a ``dict.txt`` beside it lists other symbols.
    """
    folder = Path(folder)
    present = [k for k in KINDS.values() if all((folder / n).is_file() for n in k.file_names)]
    if len(present) != 1:
        raise UserError(
            f"A tokenizer folder must hold either vocab.json and merges.txt or sentencepiece.model,"
            f" but '{folder}' holds {'both' if present else 'neither'}. Name the folder that "
            "`metaseq prepare` or `metaseq convert` wrote."
        )
    tokenizer = present[0](*(TokenizerFile(folder / name) for name in present[0].file_names))
    if (folder / DICTIONARY_FILE).is_file():
        tokenizer.check_dict(folder / DICTIONARY_FILE)
    return tokenizer


def from_files(bpe_name: str, *files: TokenizerFile) -> Tokenizer:
    """The tokenizer of kind ``bpe_name`` from its files, in the order of ``file_names``."""
    return KINDS[bpe_name](*files)


def from_options(bpe_name: str, *paths: Optional[str]) -> Tokenizer:
    """What ``--bpe bpe_name`` stands for, from the values of the kind's ``file_options``."""
    files = []
    for option, path in zip(KINDS[bpe_name].file_options, paths):
        if path is None:
            raise UserError(
                f"`{option}` must be set with this `--bpe`, but is not. Set it to the tokenizer's "
                "file; `metaseq prepare` leaves it in its data folder."
            )
        files.append(TokenizerFile(Path(path), option))
    return from_files(bpe_name, *files)


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
    return from_options(name, *(bpe[_field(option)] for option in KINDS[name].file_options))


def for_prompts(bpe: Any, folders: Iterable[Path], dictionary: Dictionary) -> Optional[Tokenizer]:
    """The tokenizer of prompts for a model of ``dictionary``; None: fairseq's own ``--bpe``, or none.

    Args:
        bpe: fairseq's ``--bpe`` and its options, or None.
        folders: where the model's tokenizer may lie, the likeliest first.

    Raises UserError where ``bpe``, the tokenizer found and ``dictionary`` contradict each other.
    """
    name = None if bpe is None else bpe["_name"]
    folder = next((folder for folder in folders if has_tokenizer(folder)), None)
    found = None if folder is None else from_folder(folder)
    if name in BPE_NAMES:
        options = KINDS[name].file_options
        chosen: Optional[Tokenizer] = from_options(name, *(bpe[_field(o)] for o in options))
        subject = f"`{options[0]}`"
    else:
        chosen, subject = found, f"The tokenizer in {folder}"
        if found is not None and name is not None:
            raise UserError(
                f"`--bpe` must be {found.bpe_name}, the kind of the tokenizer in {folder}, but is "
                f"{name}. Leave it out."
            )
    if chosen is None:
        return None
    if found is not None and not chosen.encodes_like(found):
        raise UserError(
            f"{subject} must be the tokenizer in {folder}, but gives other ids. Leave --bpe out."
        )
    if chosen.dictionary != dictionary:
        raise UserError(
            f"{subject} must number its tokens as {DICTIONARY_FILE} of `DATA` does, but does not. "
            "Set the tokenizer's files and the data folder that the model was trained with."
        )
    return chosen


def _field(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def add_file_options(parser: argparse.ArgumentParser, use: str) -> None:
    """The options that name the tokenizer's files; ``use`` says what a command does with them."""
    parser.add_argument(VOCAB_OPTION, metavar="FILE", help=f"vocab.json {use}")
    parser.add_argument(MERGES_OPTION, metavar="FILE", help="merges.txt that belongs to it")
    parser.add_argument(MODEL_OPTION, metavar="FILE", help=f"SentencePiece model {use}")


def check_file_options(args: argparse.Namespace) -> None:
    """Raise UserError unless tokenizer files were given whole and of one kind, or not at all.

    Sets ``args.bpe`` to the kind of the files where it is None.
    """
    if (args.opt_bpe_vocab is None) != (args.opt_bpe_merges is None):
        missing = VOCAB_OPTION if args.opt_bpe_vocab is None else MERGES_OPTION
        raise UserError(
            f"`{VOCAB_OPTION}` and `{MERGES_OPTION}` must be given together, but `{missing}` is "
            "missing. Set both, or neither."
        )
    given = {file.option for file in given_files(args)}
    named = [name for name, kind in KINDS.items() if kind.file_options[0] in given]
    if len(named) > 1 or (named and args.bpe not in (None, *named)):
        raise UserError(
            f"`--bpe` must be of the kind of the tokenizer files, but is {args.bpe or 'unset'} with "
            f"files of {' and '.join(named)}. Give the files of one kind."
        )
    args.bpe = args.bpe or (named or BPE_NAMES)[0]


def given_files(args: argparse.Namespace) -> list[TokenizerFile]:
    """The tokenizer files that were given; none if a vocabulary is to be trained."""
    options = (option for kind in KINDS.values() for option in kind.file_options)
    given = ((option, vars(args)[_field(option)]) for option in options)
    return [TokenizerFile(Path(path), option) for option, path in given if path is not None]
