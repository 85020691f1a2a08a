"""What a path of a model means: a Hugging Face folder, or the files of one checkpoint.

    opt-hf/config.json                          Hugging Face's: the folder
    runs/a/checkpoint_best.pt                   one file that holds everything
    runs/a/checkpoint_last-shard0.pt            a set of fairseq's: its manifest says what belongs to it
    runs/a/checkpoint_last-shard1.pt
    runs/a/checkpoint_last.manifest.json
    OPT-13B/reshard-model_part-0-shard0.pt      a set of metaseq's: a grid of model parts and their
    OPT-13B/reshard-model_part-0-shard1.pt      shards, of which none may be missing
    OPT-13B/reshard-model_part-1-shard0.pt
    OPT-13B/reshard-model_part-1-shard1.pt

A set is named by any of its files, by its manifest, or by its name without suffixes
(``OPT-13B/reshard.pt``), whether or not there is such a file; if there is, it holds everything and is
what the name means. A folder means the first checkpoint of ``IN_FOLDER`` that it holds, else its only one.
"""

from itertools import chain
from pathlib import Path
from typing import List, NamedTuple, Optional

from metaseq_plugin.checkpoint.manifest import FileName, set_name, set_names
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.hf.config import CONFIG_FILE

IN_FOLDER = (
    "checkpoint_best",  # of a run
    "checkpoint_last",
    "checkpoint",  # of `metaseq convert`
    "restored",  # of metaseq's own scripts
    "reshard",
    "consolidated",
)
MAX_NAMED = 4

Grid = List[List[Path]]  # files by model part, then by shard


class Located(NamedTuple):
    """A checkpoint that is there."""

    path: Path  # as people call it
    files: List[Path]
    has_manifest: bool  # which says what belongs to it; ``files`` are what is there

    @property
    def is_set(self) -> bool:
        """Whether it is more than one file that holds everything."""
        return self.has_manifest or not _parsed(self.files[0]).is_whole


def is_hf(path: Path) -> bool:
    """Whether ``path`` is a Hugging Face folder."""
    return (path / CONFIG_FILE).is_file()


def locate(src: Path) -> Located:
    """The checkpoint that ``src`` means.

    Raises:
        UserError: there is none, or a folder has several.
    """
    path = _in_folder(src) if src.is_dir() else src
    name = set_name(path)
    files = name.files()
    if name.manifest_path.is_file():
        return Located(path, files, has_manifest=True)
    whole = [file for file in files if _parsed(file).is_whole]
    parts = [file for file in files if file not in whole]
    meant = whole or parts if _parsed(path).is_whole else parts
    if not meant:
        raise UserError(f"The model must exist, but {src} does not. Download or train it first.")
    return Located(path, meant, has_manifest=False)


def _parsed(file: Path) -> FileName:
    """The parts of a file's name; a file that is called something else than .pt is whole."""
    return FileName.parse(file.name) or FileName(file.name)


def _in_folder(folder: Path) -> Path:
    """The name of the checkpoint that a folder means."""
    stems = [name.stem for name in set_names(folder)]
    chosen = next((stem for stem in IN_FOLDER if stem in stems), None)
    if chosen is None and not stems:
        raise UserError(
            f"The model must be a Hugging Face folder with {CONFIG_FILE} or hold a checkpoint such as "
            f"{', '.join(f'{stem}.pt' for stem in IN_FOLDER)}, but {folder} holds neither. "
            "Give the model's folder."
        )
    if chosen is None and len(stems) > 1:
        raise UserError(
            f"The model must hold one checkpoint, but {folder} holds "
            f"{', '.join(f'{stem}.pt' for stem in stems[:MAX_NAMED])}. Give the path of one of its files."
        )
    return folder / f"{chosen or stems[0]}.pt"


def grid_of(files: List[Path]) -> Grid:
    """The files of a set of metaseq's in order.

    Raises:
        UserError: names of two kinds, or one is missing.
    """
    found = {_parsed(file): file for file in files}
    kinds = {(name.model_part is None, name.shard is None) for name in found}
    folder, first = files[0].parent, next(iter(found))
    if len(kinds) > 1:
        raise UserError(
            f"The model must be one set of files, but {folder} holds {files[0].name} and "
            f"{files[-1].name}, which are of two. Move one of the sets elsewhere."
        )
    parts = _up_to_largest([name.model_part for name in found])
    shards = _up_to_largest([name.shard for name in found])
    grid = [[first._replace(model_part=part, shard=shard) for shard in shards] for part in parts]
    for name in chain(*grid):
        if name not in found:
            raise UserError(
                f"The model must hold the whole set, but {folder} lacks {name}. Copy it there."
            )
    return [[found[name] for name in row] for row in grid]


def _up_to_largest(numbers: List[Optional[int]]) -> List[Optional[int]]:
    """0, 1, … to the largest number; the one None where the files have none."""
    given = [number for number in numbers if number is not None]
    return [*range(max(given) + 1)] if given else [None]
