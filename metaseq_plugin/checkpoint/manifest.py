"""Checkpoint sets by name: the files of one save, and the manifest that says which and what they are.

    runs/a/
      checkpoint_last-model_part-0-shard0.pt     model part 0 of 2, shard 0 of 2
      checkpoint_last-model_part-0-shard1.pt
      checkpoint_last-model_part-1-shard0.pt
      checkpoint_last-model_part-1-shard1.pt
      checkpoint_last.manifest.json              written last: sizes and checksums of the four

The manifest is what makes files a set: several files without one are never loaded. One file that holds
everything needs none, because fairseq writes such files, ``metaseq convert`` does, and people copy them.
``checkpoint/commit.py`` says how a set replaces the one before it.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.peers import Ranks, agree
from metaseq_plugin.storage.torch_file import Facts

VERSION = 1
MANIFEST_SUFFIX = ".manifest.json"
PENDING_SUFFIX = MANIFEST_SUFFIX + ".pending"
CHUNK_BYTES = 16_777_216
INTERRUPTED = (
    "A save there has not ended: if its run was killed, resuming it completes the checkpoint."
)

FILE_NAME = re.compile(
    r"(?P<stem>.+?)(?:-model_part-(?P<model_part>\d+))?(?:-shard(?P<shard>\d+))?\.pt"
)


class FileName(NamedTuple):
    """``⟨stem⟩[-model_part-J][-shardI].pt``, as fairseq and metaseq write it."""

    stem: str
    model_part: Optional[int] = None
    shard: Optional[int] = None

    @classmethod
    def parse(cls, name: str) -> Optional["FileName"]:
        """The parts of ``name``, or None where it is no checkpoint's."""
        match = FILE_NAME.fullmatch(name)
        if match is None:
            return None
        numbers = (match["model_part"], match["shard"])
        return cls(match["stem"], *(None if n is None else int(n) for n in numbers))

    @property
    def is_whole(self) -> bool:
        return self.model_part is None and self.shard is None

    def __str__(self) -> str:
        part = "" if self.model_part is None else f"-model_part-{self.model_part}"
        shard = "" if self.shard is None else f"-shard{self.shard}"
        return f"{self.stem}{part}{shard}.pt"


class Manifest(NamedTuple):
    """One save. ``saved_at`` is in seconds since 1970 and orders the sets of a folder."""

    stem: str
    num_updates: int
    epoch: int
    saved_at: float
    layout: Layout
    files: Dict[str, Facts]

    def dump(self) -> str:
        """As JSON text."""
        files = {
            name: {"bytes": facts.num_bytes, "sha256": facts.sha256}
            for name, facts in sorted(self.files.items())
        }
        content = {
            "version": VERSION,
            **self._asdict(),
            "layout": self.layout._asdict(),
            "files": files,
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read ``path``.

        Raises:
            UserError: it is no manifest, or one of a later version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["version"]
            manifest = cls._of(content) if version == VERSION else None
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise UserError(
                f"{path} must be a checkpoint's manifest, but cannot be read as one "
                f"({type(error).__name__}: {error}). Use another checkpoint, or copy this one again."
            ) from error
        if manifest is None:
            raise UserError(
                f"{path} must be of version {VERSION}, but is of {version}. Update metaseq-plugin."
            )
        stem = path.name.removesuffix(".pending").removesuffix(MANIFEST_SUFFIX)
        names = [FileName.parse(file) for file in manifest.files]
        strangers = [
            file for file, name in zip(manifest.files, names) if name is None or name.stem != stem
        ]
        if manifest.stem != stem or strangers or not names:
            raise UserError(
                f"{path} must describe the files of {stem}, but describes "
                f"{strangers[0] if strangers else manifest.stem if names else 'none'}. Copy the set "
                "again, its manifest included."
            )
        return manifest

    @classmethod
    def _of(cls, content: Any) -> "Manifest":
        """The manifest in ``content``; one of the errors of unpacking where it is something else."""
        layout = Layout(**{name: _count(number) for name, number in content["layout"].items()})
        layout.check()
        return cls(
            stem=str(content["stem"]),
            num_updates=_count(content["num_updates"]),
            epoch=_count(content["epoch"]),
            saved_at=_seconds(content["saved_at"]),
            layout=layout,
            files={
                file: Facts(_count(facts["bytes"]), str(facts["sha256"]))
                for file, facts in content["files"].items()
            },
        )


def _count(number: Any) -> int:
    """``number``, which may be no other kind of number."""
    if type(number) is not int or not 0 <= number < 2**63:
        raise ValueError(f"{number!r:.40} is no count")
    return number


def _seconds(number: Any) -> float:
    """``number``, which may be no string, no NaN and nothing infinite."""
    if type(number) not in (int, float) or not 0 <= number < 2**63:
        raise ValueError(f"{number!r:.40} is no time")
    return float(number)


class SetName(NamedTuple):
    """A set by where it lies; it need not exist."""

    folder: Path
    stem: str

    @property
    def manifest_path(self) -> Path:
        return self.folder / (self.stem + MANIFEST_SUFFIX)

    @property
    def pending_path(self) -> Path:
        return self.folder / (self.stem + PENDING_SUFFIX)

    def files(self) -> List[Path]:
        """The files there that carry this name, whichever save they are of."""
        if not self.folder.is_dir():
            return []
        names = sorted(path.name for path in self.folder.iterdir())
        found = [
            self.folder / name
            for name in names
            if (parsed := FileName.parse(name)) is not None and parsed.stem == self.stem
        ]
        bare = self.folder / self.stem  # a file that a user called something else than .pt
        return [bare] if not found and bare.is_file() else found

    @property
    def exists(self) -> bool:
        return self.manifest_path.is_file() or bool(self.files())

    def __str__(self) -> str:
        return str(self.folder / f"{self.stem}.pt")


def set_name(path: Path) -> SetName:
    """The set that ``path`` means: its manifest, one of its files, or its name with or without .pt."""
    if path.name.endswith(MANIFEST_SUFFIX):
        return SetName(path.parent, path.name.removesuffix(MANIFEST_SUFFIX))
    parsed = FileName.parse(path.name)
    return SetName(path.parent, path.name if parsed is None else parsed.stem)


def set_names(folder: Path) -> List[SetName]:
    """Every set of ``folder``, complete or not, in no particular order."""
    if not folder.is_dir():
        return []
    stems = set()
    for path in folder.iterdir():
        parsed = FileName.parse(path.name)
        if parsed is not None or path.name.endswith(MANIFEST_SUFFIX):
            stems.add(set_name(path).stem)
    return [SetName(folder, stem) for stem in sorted(stems)]


def sha256_of(path: Path) -> str:
    """The checksum of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fault_of(path: Path, facts: Facts) -> Optional[str]:
    """What is wrong with a file, as a sentence, or None. Sizes are compared before bytes are read."""
    what = None
    try:
        if not path.is_file():
            what = "is missing"
        elif path.stat().st_size != facts.num_bytes:
            what = f"has {path.stat().st_size:,} bytes instead of {facts.num_bytes:,}"
        elif sha256_of(path) != facts.sha256:
            what = "has other content (its checksum differs)"
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
    if what is None:
        return None
    return f"{path} must be the whole checkpoint file that its manifest describes, but {what}."


def files_of(name: SetName) -> Tuple[Optional[Manifest], List[Path]]:
    """The manifest, None for one whole file without, and the files of a complete set.

    Raises:
        UserError: nothing there, a manifest that cannot be read, or several files without one.
    """
    if name.manifest_path.is_file():
        manifest = Manifest.read(name.manifest_path)
        return manifest, [name.folder / file for file in sorted(manifest.files)]
    files = name.files()
    whole = [path for path in files if path.name in (name.stem, f"{name.stem}.pt")]
    if whole and len(files) == 1:
        return None, whole
    if not files:
        raise UserError(f"A checkpoint must be there, but {name} does not exist. Check the path.")
    raise UserError(
        f"{name} must be a complete checkpoint, but of its {len(files)} files ({files[0].name} …) the "
        f"manifest {name.manifest_path.name} is missing. Use another checkpoint, or copy this one again."
    )


def verify(name: SetName, manifest: Optional[Manifest], ranks: Ranks) -> None:
    """Hold every file against the manifest; the ranks divide the files and agree on the outcome.

    Raises:
        UserError: on all ranks, naming a file that is not what the manifest says.
    """
    faults: Iterator[str] = iter(())
    if manifest is not None:
        mine = sorted(manifest.files.items())[ranks.rank :: ranks.size]
        found: Iterator[Any] = (fault_of(name.folder / file, facts) for file, facts in mine)
        hint = f" {INTERRUPTED}" if name.pending_path.exists() else ""
        faults = (fault + hint for fault in found if fault is not None)
    agree(ranks, next(faults, None))
