"""Which files of metaseq's a path means, and that none of them is missing.

    restored.pt                                 one file
    reshard-model_part-0.pt …-1.pt              one file a model part
    checkpoint_last-model_part-0-shard0.pt …    one file a model part and shard
    checkpoint_last-shard0.pt …                 one file a shard

A path is any of these files, the folder, or as in metaseq's own settings the name without the suffixes
(``reshard.pt``), whether or not there is such a file.
"""

import re
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Tuple

from metaseq_plugin.compat.errors import UserError

NAME = re.compile(r"(.+?)(?:-model_part-(\d+))?(?:-shard(\d+))?\.pt")
# What a folder with several checkpoints means, the first that is there.
PREFERRED = ("restored", "reshard", "consolidated", "checkpoint_last")
MAX_NAMED = 4

Grid = List[List[Path]]  # files by model part, then by shard
Place = Tuple[Optional[int], Optional[int]]  # the model part and the shard that a name gives


def file_name(stem: str, part: int, num_parts: int, shard: int, num_shards: int) -> str:
    """The name that metaseq gives a file; a suffix for what there is only one of is left out."""
    suffix = f"-model_part-{part}" if num_parts > 1 or num_shards > 1 else ""
    suffix += f"-shard{shard}" if num_shards > 1 else ""
    return f"{stem}{suffix}.pt"


def find_files(src: Path) -> Grid:
    """The files that ``src`` means.

    Raises:
        UserError: none, several checkpoints, or a set with a file missing.
    """
    if src.is_dir():
        folder, stem = src, _stem_in(src)
    else:
        match = NAME.fullmatch(src.name)
        folder, stem = src.parent, match[1] if match else src.name
        if src.is_file() and (match is None or (match[2] is None and match[3] is None)):
            return [[src]]
    found: Dict[Place, Path] = {}
    for path in _checkpoints(folder):
        match = NAME.fullmatch(path.name)
        if match is not None and match[1] == stem:
            found[_number(match[2]), _number(match[3])] = path
    if not found:
        raise UserError(f"SRC must exist, but {src} does not. Download or train it first.")
    if (None, None) in found:
        return [[found[None, None]]]
    return _grid(found, folder, stem)


def _checkpoints(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("*.pt")) if folder.is_dir() else ()


def _number(text: Optional[str]) -> Optional[int]:
    return None if text is None else int(text)


def _stem_in(folder: Path) -> str:
    matches = (NAME.fullmatch(path.name) for path in _checkpoints(folder))
    stems = sorted({match[1] for match in matches if match is not None})
    chosen = next((stem for stem in PREFERRED if stem in stems), None)
    if chosen is None and len(stems) != 1:
        held = ", ".join(f"{stem}.pt" for stem in stems[:MAX_NAMED]) or "none"
        raise UserError(
            f"SRC must hold one checkpoint, but {folder} holds {held}. Give the path of one of its "
            "files."
        )
    return chosen or stems[0]


def _grid(found: Dict[Place, Path], folder: Path, stem: str) -> Grid:
    """The set in order, after the check that its names agree and none is missing."""
    kinds = {(part is not None, shard is not None) for part, shard in found}
    if len(kinds) > 1:
        paths = [path.name for path in found.values()]
        raise UserError(
            f"SRC must be one set of files, but {folder} holds {paths[0]} and {paths[-1]}, which are "
            "of two. Move one of the sets elsewhere."
        )
    (has_parts, has_shards) = kinds.pop()
    num_parts = 1 + max(part or 0 for part, _ in found)
    num_shards = 1 + max(shard or 0 for _, shard in found)
    grid: Grid = []
    for part in range(num_parts):
        places = [
            (part if has_parts else None, shard if has_shards else None)
            for shard in range(num_shards)
        ]
        for place in places:
            if place not in found:
                suffix = f"-model_part-{place[0]}" if has_parts else ""
                suffix += f"-shard{place[1]}" if has_shards else ""
                raise UserError(
                    f"SRC must hold the whole set, but {folder} lacks {stem}{suffix}.pt. "
                    "Copy it there."
                )
        grid.append([found[place] for place in places])
    return grid
