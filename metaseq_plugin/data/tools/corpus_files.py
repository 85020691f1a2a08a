"""Which files a corpus tool reads, in which order, and which corpus each of them belongs to.

    DATA/train/00/wiki.jsonl.gz, DATA/train/01/wiki.jsonl.gz    corpus train/wiki
    DATA/valid/wiki/00/wiki.jsonl                               corpus valid/wiki/wiki
    DATA/notes.txt                                              corpus notes

A text that is in several splits is a copy in ``train``: what models are measured on stays what it is.
So the files of ``train`` come last.
"""

from pathlib import Path
from typing import NamedTuple, Optional

from metaseq_plugin.data.documents.inputs import find_inputs
from metaseq_plugin.data.streaming.files import corpus_name
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE
from metaseq_plugin.tokenizers.open import TOKENIZER_FILES

CORPUS_HELP = "folder with .jsonl or .txt files, plain, .gz or .zst; or a file"
TRAIN = "train"
TOKENIZER = (*TOKENIZER_FILES, DICTIONARY_FILE)  # may lie in DATA, and is no corpus


class CorpusFile(NamedTuple):
    """A file of a corpus."""

    path: Path
    relative: Path  # to DATA
    split: Optional[str]  # "train", "valid/wiki"; None for a file that is in no shard
    corpus: str  # with the split


def _corpus_file(path: Path, root: Path) -> CorpusFile:
    relative = path.relative_to(root)
    folders = [name for name in relative.parent.parts if not name.isdecimal()]
    in_shard = relative.parent.name.isdecimal() and bool(folders)
    split = "/".join(folders) if in_shard else None
    return CorpusFile(path, relative, split, "/".join([*folders, corpus_name(path)]))


def corpus_files(data: str) -> list[CorpusFile]:
    """The files that ``data``, a folder or a file, holds; those of ``train`` last.

    Raises UserError for a missing or empty folder, and for what cannot be followed.
    """
    root = Path(data) if Path(data).is_dir() else Path(data).parent
    paths = find_inputs([data], [root / name for name in TOKENIZER])
    files = [_corpus_file(path, root) for path in paths]
    return sorted(files, key=lambda file: file.relative.parts[0] == TRAIN)
