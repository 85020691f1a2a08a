"""Read a checkpoint set, whatever layout wrote it, as exactly the pieces that a rank wants.

    saved = CheckpointSet.open(Path("runs/a/checkpoint_last.pt"))
    state = saved.state_for(pieces_of(model))        # a fairseq state; its tensors are this rank's

Files (``checkpoint/set_file.py``) are opened one after the other until a piece is complete, a rank's own
file first: where the layout is as saved no other one is touched. ``checkpoint/set_optimizer.py`` adds the
optimizer's state.
"""

from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import torch
from torch import Tensor

from metaseq_plugin.checkpoint.manifest import (
    FileName,
    Manifest,
    SetName,
    files_of,
    set_name,
    verify,
)
from metaseq_plugin.checkpoint.set_file import Held, Pieces, SavedFile, open_file
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.fit import check_fits
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.peers import ALONE, Ranks, on_first
from metaseq_plugin.layout.piece import Piece

# What a file says of itself alone, and what holds of one rank only.
OF_ONE_FILE = ("model", "last_optimizer_state", "layout", "fsdp_metadata")


def assemble(piece: Piece, held: Iterator[Held]) -> Optional[Tensor]:
    """``piece`` from what others hold: a view where one has all of it; None where some is missing."""
    missing = torch.Size(piece.size).numel()
    found: Dict[Piece, Tensor] = {}  # views: nothing is made before all of it is there
    for holder, tensor in held:
        if missing == 0:  # an empty piece
            return tensor.new_empty(piece.size)
        overlap = piece.overlap(holder)
        if overlap is None or overlap in found:  # replicas are in several files
            continue
        block = tensor[overlap.slices_within(holder)]
        if overlap.size == piece.size:
            return block
        found[overlap] = block
        missing -= block.numel()
        if missing == 0:
            result = tensor.new_empty(piece.size)
            for part, block in found.items():
                result[part.slices_within(piece)] = block
            return result
    return None


def check(name: SetName, ranks: Ranks) -> None:
    """Refuse a set that is not complete and undamaged, on every rank alike.

    Raises:
        UserError: naming the file.
    """
    manifest, paths = on_first(ranks, lambda: files_of(name))
    if manifest is None:  # one whole file, of which nothing is known
        on_first(ranks, lambda: open_file(paths[0]).path)  # only its path is told to the others
    else:
        verify(name, manifest, ranks)


def check_same_model(first: SavedFile, other: SavedFile) -> None:
    """Refuse files of a set that hold pieces of different tensors."""
    shapes, others = ({n: p.shape for n, p in file.pieces.items()} for file in (first, other))
    if shapes != others:
        raise UserError(
            f"{other.path} must hold pieces of the model that {first.path.name} is of, but does not. Use another "
            "checkpoint, or copy this one again with all of its files."
        )


class CheckpointSet:
    """The files of one save, opened as they are needed."""

    def __init__(self, name: SetName, manifest: Optional[Manifest], paths: Sequence[Path]) -> None:
        self.name = name
        self.manifest = manifest
        self._waiting = list(paths)
        self._opened: List[SavedFile] = []

    @classmethod
    def open(
        cls,
        where: Path,
        ranks: Ranks = ALONE,
        own: Optional[FileName] = None,
        verified: bool = False,
    ) -> "CheckpointSet":
        """Open the set that ``where`` means, any path of it; all of its files are verified first.

        Args:
            ranks: those that open it together, and divide the work of verifying.
            own: the name of the file that this rank would save; it is opened first.
            verified: it has been, just now.

        Raises:
            UserError: nothing there, or not a complete set.
        """
        name = set_name(where)
        manifest, paths = files_of(name)
        if not verified:
            verify(name, manifest, ranks)
        first = None if own is None else str(own._replace(stem=name.stem))
        return cls(name, manifest, sorted(paths, key=lambda path: path.name != first))

    def files(self) -> Iterator[SavedFile]:
        """Every file, the opened ones first."""
        yield from list(self._opened)
        while self._waiting:
            file = open_file(self._waiting.pop(0))
            if self._opened:
                check_same_model(self._opened[0], file)
            self._opened.append(file)
            yield self._opened[-1]

    @property
    def first(self) -> SavedFile:
        """The file that speaks for the set: this rank's own, if there is one."""
        return next(self.files())

    @property
    def pieces(self) -> Dict[str, Piece]:
        """name -> the piece in the first file; its ``shape`` is the full one."""
        return self.first.pieces

    @property
    def layout(self) -> Layout:
        """How the set is cut, and how many ranks its data position counts."""
        return self.first.layout

    @property
    def saved_at(self) -> float:
        """When it was saved, in seconds since 1970."""
        return self.manifest.saved_at if self.manifest else self.first.path.stat().st_mtime

    @property
    def has_optimizer(self) -> bool:
        return self.first.optimizer is not None

    def tensor(self, name: str, piece: Piece) -> Tensor:
        """``piece`` of the parameter ``name``; may share memory with a mapped file."""
        return self._assembled(name, piece, lambda file: file.weight(name))

    def moment(self, name: str, key: str, piece: Piece) -> Tensor:
        """``piece`` of ``key`` in the optimizer's state of ``name``; may share a file's memory too."""
        return self._assembled(name, piece, lambda file: file.moment(name, key))

    def _assembled(
        self, name: str, piece: Piece, held: Callable[[SavedFile], Optional[Held]]
    ) -> Tensor:
        entries = (held(file) for file in self.files())
        tensor = assemble(piece, (entry for entry in entries if entry is not None))
        if tensor is None:
            raise UserError(
                f"{self.name} must hold all of `{name}`, but a part of it is in none of its files. "
                "Use another checkpoint, or copy this one again with all of its files."
            )
        return tensor

    def whole(self) -> Dict[str, Any]:
        """The state with the whole model, and without the optimizer's."""
        return self.state_for({name: Piece.whole(p.shape) for name, p in self.pieces.items()})

    def state_for(self, pieces: Pieces) -> Dict[str, Any]:
        """fairseq's state for a rank that holds ``pieces``, without the optimizer's.

        Raises:
            UserError: the set is of another model.
        """
        check_fits(pieces, self.pieces, strict=True, where=self.name)
        state = {k: v for k, v in self.first.state.items() if k not in OF_ONE_FILE}
        state["model"] = {name: self.tensor(name, piece) for name, piece in pieces.items()}
        state["last_optimizer_state"] = None
        if pieces != self.pieces:  # random states of a rank that cuts otherwise mean nothing here
            extra = dict(state.get("extra_state") or {})
            extra.pop("rng_tracker_states", None)
            state["extra_state"] = extra
        return state
