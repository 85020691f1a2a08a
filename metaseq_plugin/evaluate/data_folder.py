"""The folder of evaluation sets, ``--data``: files that a user brings, each checked once; nothing is downloaded.

    folder = DataFolder(Path("eval-data"), any_data=False, tell=print)
    folder.open(task.files[0])          its path, once its SHA-256 was compared
    folder.checksums                    path below the folder -> the SHA-256 that was found

A file that is missing is told with where to get it, under which licence, and what it must look like.
"""

import hashlib
from pathlib import Path
from typing import Callable, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.task import DataFile

READ_BYTES = 2**20
SHOWN = 12  # characters of a checksum in a message that repeats what is known


class MissingData(UserError):
    """A file is not there: a group of tasks can go on without those that read it."""


class DataFolder:
    """``task.Data`` of a folder.

    Args:
        folder: None: ``--data`` was not set.
        any_data: take files whose checksum is another one.
        tell: is given a line for each file.

    Attributes:
        checksums: of the files that were opened.
    """

    def __init__(self, folder: Optional[Path], any_data: bool, tell: Callable[[str], None]) -> None:
        self.folder, self.any_data, self.tell = folder, any_data, tell
        self.checksums: dict[str, str] = {}

    def open(self, file: DataFile) -> Path:
        """The file, checked.

        Raises:
            MissingData: it is not there, or no folder was set.
            UserError: it is empty, cannot be read, or is another one than its checksum says.
        """
        path = self.place(file)
        if file.path not in self.checksums:
            try:
                if not path.is_file():
                    raise missing(file)
                if path.stat().st_size == 0:
                    raise UserError(f"{path} must not be empty, but has 0 bytes. {fetch(file)}")
                found = sha256(path)
            except OSError as error:
                raise UserError(
                    f"{path} must be a file that can be read, but is not ({error.strerror}). Check its rights."
                ) from error
            self.check(path, file, found)
            self.checksums[file.path] = found
        return path

    def place(self, file: DataFile) -> Path:
        """Where the file must lie."""
        if self.folder is None:
            raise MissingData(
                f"`--data` must name the folder of evaluation sets, to read {file.path}, but is not set. "
                f"{fetch(file)}"
            )
        if not self.folder.is_dir():
            raise UserError(
                f"`--data` must be a folder of evaluation sets, but {self.folder} is none. Check the path."
            )
        return self.folder / file.path

    def check(self, path: Path, file: DataFile, found: str) -> None:
        """Compare, and tell what came of it."""
        if file.sha256 is None:
            self.tell(f"data     {file.path}: SHA-256 {found}, none is known to compare it with")
        elif file.sha256 == found:
            self.tell(f"data     {file.path}: as expected (SHA-256 {found[:SHOWN]}…)")
        elif self.any_data:
            self.tell(
                f"data     {file.path}: another file than expected (SHA-256 {found}), taken as --any-data says"
            )
        else:
            raise UserError(
                f"{path} must have the SHA-256 {file.sha256}, but has {found}. {fetch(file)} "
                "Or set --any-data: results then name the checksum that was found."
            )


def sha256(path: Path) -> str:
    """Raises OSError where it cannot be read."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            found.update(block)
    return found.hexdigest()


def missing(file: DataFile) -> MissingData:
    """The error, which results keep: it says nothing of the machine's own folders."""
    known = "not known" if file.sha256 is None else file.sha256
    return MissingData(
        f"`--data` must hold {file.path}, but has no such file. {fetch(file)} Its SHA-256: {known}."
    )


def fetch(file: DataFile) -> str:
    """From where, under which licence, in which form."""
    form = file.form.rstrip(".")
    return f"Get it from {file.source} (licence: {file.licence}); it must be: {form}."
