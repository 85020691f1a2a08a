"""Which files a split has: shards in order, and the corpora that lie in them.

    DATA/train/00/wiki.jsonl  books.txt.gz  …     shards 00, 01, … without gaps
    DATA/train/01/wiki.jsonl  …                   a corpus is the files of one name in all shards
    DATA/valid/wiki/00/wiki.jsonl                 split "valid/wiki"

Nothing below a shard is searched, so links that lead in circles lead nowhere.
"""

import logging
import os
from pathlib import Path

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.reading import SUFFIXES, document_format

logger = logging.getLogger(__name__)


def corpus_name(path: Path) -> str:
    """``wiki`` of ``wiki.jsonl.gz``."""
    name = path.name
    suffix = next(s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s))
    return name[: -len(suffix)]


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(
            f"A data folder must be readable, but {folder} is not ({error.strerror}). Check its "
            "permissions and links."
        ) from error


def find_shards(data: str, split: str) -> list[Path]:
    """The shard folders of ``split`` in order; UserError where there are none, or one is missing."""
    folder = Path(data) / split
    if not folder.is_dir():
        raise UserError(
            f"`DATA` must hold a folder {split} with shards 00, 01, …, but {data} does not. Make it, "
            "or set --train-subset and --valid-subset."
        )
    entries = _visible(folder)
    shards: dict[int, Path] = {}
    for path in entries:
        if path.name.isdecimal():
            if int(path.name) in shards:
                raise UserError(
                    f"The shards of a split must each have a number of their own, but {folder} holds "
                    f"{shards[int(path.name)].name} and {path.name}. Rename or remove one."
                )
            shards[int(path.name)] = path
    if not shards:
        present = ", ".join(path.name for path in entries[:5]) or "nothing"
        raise UserError(
            f"A split must hold shard folders 00, 01, …, but {folder} holds {present}. Put its files "
            f"into {folder / '00'}, or name a split below it, as in --valid-subset valid/wiki."
        )
    for number in range(len(shards)):
        if number not in shards:
            raise UserError(
                f"The shards of a split must be numbered from 0 without gaps, but {folder} has no "
                f"shard {number:02d} and has {max(shards):02d}. Add it, or number them anew."
            )
    others = [path.name for path in entries if path not in shards.values()]
    if others:
        logger.warning(f"{folder}: left out, as no shards: {', '.join(others)}")
    return [shards[number] for number in range(len(shards))]


def shard_files(shard: Path) -> list[Path]:
    """The files of corpora in ``shard``; UserError where it has none."""
    entries = _visible(shard)
    files = [path for path in entries if document_format(path) is not None]
    if not files:
        raise UserError(
            f"A shard must hold {', '.join(SUFFIXES)} files, but {shard} holds none. Add them, or "
            "remove the shard and number the rest anew."
        )
    others = [path.name for path in entries if path not in files]
    if others:
        logger.warning(f"{shard}: left out, as no corpus: {', '.join(others)}")
    return files


def readable(path: Path) -> os.stat_result:
    """The file's status; UserError where it is no file, or may not be read."""
    try:
        status = path.stat()
        is_file = path.is_file() and os.access(path, os.R_OK)
    except OSError as error:
        raise UserError(
            f"A corpus file must be readable, but {path} is not ({error.strerror}). Check its "
            "permissions and links, or remove it."
        ) from error
    if not is_file:
        raise UserError(
            f"A corpus file must be readable, but {path} is not (a folder, or no permission). Check "
            "its permissions, or remove it."
        )
    return status


def find_corpora(data: str, split: str) -> dict[str, list[Path]]:
    """Corpus → its files in the order of shards; corpora in the order of their names."""
    corpora: dict[str, list[Path]] = {}
    for shard in find_shards(data, split):
        here: dict[str, Path] = {}
        for path in shard_files(shard):
            name = corpus_name(path)
            if name in here:
                raise UserError(
                    f"A shard must hold one file of each corpus, but {shard} holds "
                    f"{here[name].name} and {path.name}. Rename or remove one."
                )
            here[name] = path
            corpora.setdefault(name, []).append(path)
    return dict(sorted(corpora.items()))
