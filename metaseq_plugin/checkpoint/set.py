"""Read a checkpoint set, whatever layout wrote it, as exactly the pieces that a rank wants.

    saved = CheckpointSet.open(Path("runs/a/checkpoint_last.pt"))
    state = saved.state_for(pieces_of(model))        # a fairseq state; its tensors are this rank's

A file says in its ``layout`` which piece of every full tensor it holds; a file without holds whole
tensors. Files are mapped, not read, and opened one after the other until a piece is complete, a rank's
own file first: where the layout is as saved no other one is touched.

Plain --fp16 and --bf16 runs save their fp32 master weights with the optimizer. They are the truth, and
the model's 16-bit weights are their rounding: tensors of the model are taken from them where they exist.
"""

import zipfile
from functools import partial
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

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
from metaseq_plugin.compat.checkpoint_errors import UNREADABLE, unreadable
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.fit import check_fits
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.peers import ALONE, Ranks, on_first
from metaseq_plugin.layout.piece import Piece

LAYOUT_VERSION = 1
MASTERS = "master_weights"
# What a file says of itself alone, and what holds of one rank only.
OF_ONE_FILE = ("model", "last_optimizer_state", "layout", "fsdp_metadata")
Pieces = Mapping[str, Piece]
Held = Tuple[Piece, Tensor]


class SavedFile(NamedTuple):
    """One opened file. ``optimizer_params`` names the optimizer's parameters; None: it has others."""

    path: Path
    state: Dict[str, Any]
    pieces: Dict[str, Piece]
    optimizer_params: Optional[List[str]]

    @property
    def optimizer(self) -> Optional[Dict[str, Any]]:
        return self.state.get("last_optimizer_state")


def layout_entry(
    layout: Layout, model_part: int, shard: int, pieces: Pieces, params: Optional[Sequence[str]]
) -> Dict[str, Any]:
    """What a file says of itself under ``layout``."""
    return {
        "version": LAYOUT_VERSION,
        "model_parallel": [model_part, layout.model_parallel_size],
        "shard": [shard, layout.num_shards],
        "data_parallel_size": layout.data_parallel_size,
        "pieces": {
            name: {key: list(value) for key, value in piece._asdict().items()}
            for name, piece in pieces.items()
        },
        "optimizer_params": None if params is None else list(params),
    }


def read_state(path: Path) -> Dict[str, Any]:
    """What ``torch.save`` wrote to ``path``, its tensors mapped from the file.

    Raises:
        UserError: no whole checkpoint.
    """
    try:
        is_mapped = zipfile.is_zipfile(path)  # files of PyTorch before 1.6 cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise unreadable(path, KeyError("model"))
    return state


def check_readable(path: Path) -> None:
    """Refuse a file that is no whole checkpoint."""
    read_state(path)


def open_file(path: Path) -> SavedFile:
    """Open ``path``; a file without a layout holds whole tensors, its optimizer in the model's order."""
    state = read_state(path)
    layout = state.get("layout")
    if layout is None:
        pieces = {name: Piece.whole(tensor.shape) for name, tensor in state["model"].items()}
        params = _plain_order(pieces, state.get("last_optimizer_state"))
        return SavedFile(path, state, pieces, params)
    if layout["version"] != LAYOUT_VERSION:
        raise UserError(
            f"{path} must have a layout of version {LAYOUT_VERSION}, but has {layout['version']}. "
            "Update metaseq-plugin."
        )
    pieces = {
        name: Piece(tuple(box["shape"]), tuple(box["start"]), tuple(box["size"]))
        for name, box in layout["pieces"].items()
    }
    return SavedFile(path, state, pieces, layout["optimizer_params"])


def _plain_order(pieces: Pieces, optimizer: Optional[Dict[str, Any]]) -> Optional[List[str]]:
    """Names of the parameters of an optimizer that was saved without them, or None."""
    if not isinstance(optimizer, dict) or "param_groups" not in optimizer:
        return None
    sizes = [len(group["params"]) for group in optimizer["param_groups"]]
    if sizes == [len(pieces)]:
        return list(pieces)
    matrices = [name for name, piece in pieces.items() if len(piece.shape) > 1]
    vectors = [name for name, piece in pieces.items() if len(piece.shape) <= 1]
    # --no-decay-vectors
    return matrices + vectors if sizes == [len(matrices), len(vectors)] else None


def assemble(piece: Piece, held: Iterator[Held]) -> Optional[Tensor]:
    """``piece`` from what others hold: a view where one has all of it; None where some is missing."""
    result, missing, seen = None, torch.Size(piece.size).numel(), set()
    for holder, tensor in held:
        if missing == 0:  # an empty piece
            return tensor.new_empty(piece.size)
        overlap = piece.overlap(holder)
        if overlap is None or overlap in seen:  # replicas are in several files
            continue
        block = tensor[overlap.slices_within(holder)]
        if overlap.size == piece.size:
            return block
        if result is None:
            result = tensor.new_empty(piece.size)
        result[overlap.slices_within(piece)] = block
        seen.add(overlap)
        missing -= block.numel()
        if missing == 0:
            return result
    return None


def check(name: SetName, ranks: Ranks) -> None:
    """Refuse a set that is not complete and undamaged, on every rank alike.

    Raises:
        UserError: naming the file.
    """
    manifest, paths = on_first(ranks, lambda: files_of(name))
    if manifest is None:  # one whole file, of which nothing is known
        on_first(ranks, lambda: check_readable(paths[0]))
    else:
        verify(name, manifest, ranks)


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
            self._opened.append(open_file(self._waiting.pop(0)))
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
        entry = self.first.state.get("layout")
        if entry is not None:
            return Layout(
                entry["model_parallel"][1], entry["shard"][1], entry["data_parallel_size"]
            )
        options = (self.first.state.get("cfg") or {}).get("distributed_training") or {}
        return Layout(1, 1, options.get("distributed_world_size") or 1)

    @property
    def saved_at(self) -> float:
        """When it was saved, in seconds since 1970."""
        return self.manifest.saved_at if self.manifest else self.first.path.stat().st_mtime

    @property
    def has_optimizer(self) -> bool:
        return self.first.optimizer is not None

    def tensor(self, name: str, piece: Piece) -> Tensor:
        """``piece`` of the parameter ``name``; may share memory with a mapped file."""
        return self._assembled(piece, lambda file: _weight(file, name), name)

    def _assembled(
        self, piece: Piece, held: Callable[[SavedFile], Optional[Held]], what: str
    ) -> Tensor:
        entries = (held(file) for file in self.files())
        tensor = assemble(piece, (entry for entry in entries if entry is not None))
        if tensor is None:
            raise UserError(
                f"{self.name} must hold all of `{what}`, but a part of it is in none of its files. "
                "Use another checkpoint, or copy this one again with all of its files."
            )
        return tensor

    def whole(self) -> Dict[str, Any]:
        """The state with the whole model, and without the optimizer's."""
        return self.state_for({name: Piece.whole(p.shape) for name, p in self.pieces.items()})

    def state_for(
        self,
        pieces: Pieces,
        optimizer_params: Optional[Sequence[str]] = None,
        with_optimizer: bool = False,
        with_masters: bool = False,
    ) -> Dict[str, Any]:
        """fairseq's state for a rank that holds ``pieces``.

        Args:
            optimizer_params: names of the optimizer's parameters in its order; None: it has others,
                one flattened for example.
            with_masters: the optimizer keeps fp32 master weights beside a 16-bit model.

        Raises:
            UserError: the set is of another model, or its optimizer state cannot be cut.
        """
        check_fits(pieces, self.pieces, strict=True, where=self.name)
        state = {k: v for k, v in self.first.state.items() if k not in OF_ONE_FILE}
        state["model"] = {name: self.tensor(name, piece) for name, piece in pieces.items()}
        state["last_optimizer_state"] = None
        if with_optimizer and self.has_optimizer:
            if self.first.optimizer_params is None or optimizer_params is None:
                state["last_optimizer_state"] = self._optimizer_as_saved(pieces, optimizer_params)
            else:
                state["last_optimizer_state"] = self._optimizer_for(
                    pieces, optimizer_params, with_masters
                )
        if pieces != self.pieces:  # random states of a rank that cuts otherwise mean nothing here
            extra = dict(state.get("extra_state") or {})
            extra.pop("rng_tracker_states", None)
            state["extra_state"] = extra
        return state

    def _optimizer_as_saved(self, pieces: Pieces, params: Optional[Sequence[str]]) -> Any:
        """The optimizer's state of the same layout, untouched."""
        if pieces == self.pieces and self.first.optimizer_params is None and params is None:
            return self.first.optimizer
        which = "this run's" if params is None else "the checkpoint's"
        raise UserError(
            f"The optimizer's state must be kept parameter by parameter to be cut anew, but {which} "
            "is flattened. Set --fp16-no-flatten-grads as in the checkpoint, or --reset-optimizer."
        )

    def _optimizer_for(self, pieces: Pieces, params: Sequence[str], masters: bool) -> Any:
        saved_params = self.first.optimizer_params
        assert saved_params is not None
        assert self.first.optimizer is not None
        if set(saved_params) != set(params):
            raise UserError(
                f"The optimizer must have the parameters of the checkpoint ({len(saved_params)}), but "
                f"has {len(params)}. Use the model that was saved, or set --reset-optimizer."
            )
        optimizer = {k: v for k, v in self.first.optimizer.items() if k != MASTERS}
        entries = {
            index: entry
            for index, name in enumerate(params)
            if (entry := self._entry(name, pieces[name]))
        }
        groups, start = [], 0
        for group in optimizer["param_groups"]:
            end = start + len(group["params"])
            groups.append({**group, "params": list(range(start, end))})
            start = end
        optimizer.update(state=entries, param_groups=groups)
        if masters or MASTERS in self.first.optimizer:
            optimizer[MASTERS] = [self.tensor(name, pieces[name]).float() for name in params]
        return optimizer

    def _entry(self, name: str, piece: Piece) -> Dict[str, Any]:
        """The optimizer's state of one parameter: what has the parameter's shape is cut alike."""
        entry: Dict[str, Any] = {}
        holder = next((f for f in self.files() if _optimizer_entry(f, name) is not None), None)
        if holder is None:  # never updated
            return entry
        for key, value in (_optimizer_entry(holder, name) or {}).items():
            if not isinstance(value, Tensor) or value.dim() == 0:
                entry[key] = value
            elif value.shape == holder.pieces[name].size:
                found = self._assembled(piece, partial(_moment, name=name, key=key), name)
                entry[key] = found.clone()  # it will be written to, and outlive the file
            elif piece == holder.pieces[name]:
                entry[key] = value
            else:
                raise UserError(
                    f"The optimizer's state must have its parameter's shape to be cut anew, but `{key}` "
                    f"of `{name}` does not. Resume in the layout that was saved, or --reset-optimizer."
                )
        return entry


def _weight(file: SavedFile, name: str) -> Optional[Held]:
    """The parameter ``name`` in ``file``, in fp32 where master weights were saved."""
    tensor = file.state["model"].get(name)
    if tensor is None or name not in file.pieces:
        return None
    masters = (file.optimizer or {}).get(MASTERS)
    if masters is not None and file.optimizer_params is not None:
        tensor = masters[file.optimizer_params.index(name)]
    return file.pieces[name], tensor


def _optimizer_entry(file: SavedFile, name: str) -> Optional[Dict[str, Any]]:
    if file.optimizer is None or file.optimizer_params is None:
        return None
    return file.optimizer["state"].get(file.optimizer_params.index(name))


def _moment(file: SavedFile, name: str, key: str) -> Optional[Held]:
    entry = _optimizer_entry(file, name)
    return None if entry is None else (file.pieces[name], entry[key])
