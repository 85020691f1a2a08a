"""From the paths that a user names to a list of input files, in a fixed order.

Links are followed, and folders that cannot be read, links to nothing and links in circles are
errors: a part of a corpus that is passed over would not be noticed.
"""

import os
from pathlib import Path
from typing import Iterable, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.reading import SUFFIXES, document_format


def find_inputs(inputs: Sequence[str], excluded: Iterable[Path]) -> list[Path]:
    """Every file that ``inputs`` name, folders searched in sorted order, hidden files left out.

    ``excluded`` are files that must not be taken from a folder (this command's own output).
    Raises UserError for a missing or doubly named input, an unknown suffix, an empty folder.
    """
    skipped = {path.resolve() for path in excluded}
    files: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found = [file for file in _visible_files(path) if file.resolve() not in skipped]
            if not found:
                raise UserError(
                    f"An input folder must hold {', '.join(SUFFIXES)} files, but '{name}' holds "
                    "none. Name a folder that does, or the files themselves."
                )
            files += found
        elif not path.exists():
            raise UserError(
                f"An input must be a file or folder that exists, but '{name}' does not. "
                "Check the path."
            )
        elif document_format(path) is None:
            raise UserError(
                f"An input file must end in {', '.join(SUFFIXES)}, but is '{name}'. "
                "Rename or convert it."
            )
        else:
            files.append(path)
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise UserError(
                f"An input must be named once, but '{file}' is named twice. Leave one of them out."
            )
        seen.add(file.resolve())
    return files


def _visible_files(folder: Path) -> list[Path]:
    """The corpus files in and below ``folder``, sorted by their paths."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"An input folder must be readable, but '{error.filename}' is not ({error.strerror}). "
            "Check its permissions, or name other inputs."
        ) from error

    files: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            _check_circle(Path(parent) / name, folder)
        paths = [Path(parent) / name for name in names if not name.startswith(".")]
        files += [path for path in paths if document_format(path) is not None]
    for path in files:
        if not path.exists():
            raise UserError(
                f"An input must be a file, but '{path}' is a link to nothing. Mend or remove it."
            )
    return sorted(path for path in files if path.is_file())


def _check_circle(folder: Path, top: Path) -> None:
    """Refuse a link to a folder that it was reached through."""
    if not folder.is_symlink():
        return
    way = [folder.parent, *folder.parent.parents]
    way = way[: way.index(top) + 1]
    if folder.resolve() in [parent.resolve() for parent in way]:
        raise UserError(
            f"An input folder must not hold links in circles, but '{folder}' leads back to "
            f"'{folder.resolve()}'. Remove the link."
        )
