"""Where results go.

output_of(None, "runs/a", ["harms"])               runs/a/eval/harms.json
output_of(None, "opt-125m-hf", ["ethos", "bbq"])   eval-opt-125m-hf-ethos+bbq.json
output_of(Path("x.json"), …)                       x.json
"""

import re
from pathlib import Path
from typing import Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.results import SUFFIX, digest, read_results
from metaseq_plugin.formats.locate import IN_FOLDER, is_hf, locate

FOLDER = "eval"  # in a run folder
OF_RUNS = IN_FOLDER[:2]  # the checkpoints by which a run folder is known
LONGEST = 120  # characters of the tasks in a file's name
IS_ADDRESS = re.compile(r"https?://")


def output_of(output: Optional[Path], path: str, tasks: Sequence[str]) -> Path:
    """The file of results; its folder is there, and no other file is in its place.

    Args:
        output: as it was asked for.
        path: the model's, or the address of a server.
        tasks: as they were asked for.

    Raises:
        UserError: no file can be made there, another one is there, or there is no model at ``path``.
    """
    found = place_of(output, path, tasks)
    check_replaced(found)
    return found


def check_replaced(output: Path) -> None:
    """Refuse to replace what is no file of results: a checkpoint whose name was typed, say."""
    if not output.exists() or (output.is_file() and output.stat().st_size == 0):
        return
    try:
        read_results(output)
    except UserError as error:
        raise UserError(
            f"`--output` must be new or hold results that this version knows, but {output} does not. Set another."
        ) from error


def place_of(output: Optional[Path], path: str, tasks: Sequence[str]) -> Path:
    if output is not None:
        if output.is_dir():
            raise UserError(f"`--output` must be a file, but {output} is a folder. Add a name.")
        if not output.parent.is_dir():
            raise UserError(
                f"`--output` must be in a folder that is there, but {output.parent} is none. Make it."
            )
        return output
    words = "+".join(tasks)
    if len(words) > LONGEST:
        words = f"{len(tasks)}-tasks-{digest(tasks)[:8]}"
    if IS_ADDRESS.match(path):
        name = re.sub(r"[^\w.]+", "-", IS_ADDRESS.sub("", path)).strip("-")
        return Path(f"eval-{name}-{words}{SUFFIX}")
    run = run_folder(Path(path))
    if run is None:
        return Path(f"eval-{name_of(Path(path))}-{words}{SUFFIX}")
    folder = run / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"`--output` must be a file that can be written, but {folder} cannot be made ({error.strerror}). "
            "Set another."
        ) from error
    return folder / f"{words}{SUFFIX}"


def run_folder(path: Path) -> Optional[Path]:
    """``path``, if it is the folder of a training run; raises UserError where it holds no model."""
    if is_hf(path):
        return None
    found = locate(path)
    return path if path.is_dir() and found.path.stem in OF_RUNS else None


def name_of(path: Path) -> str:
    """A folder's name, or those of a file and its folder."""
    path = path.resolve()
    return path.name if path.is_dir() else f"{path.parent.name}-{path.stem}"
