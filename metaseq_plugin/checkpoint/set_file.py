"""One file of a checkpoint set: what it says of itself, and what it holds.

    file = open_file(Path("runs/a/checkpoint_last-model_part-1-shard0.pt"))
    piece, tensor = file.weight("decoder.layers.0.fc1.weight")

A file says in its ``layout`` which piece of every full tensor it holds (``layout_entry`` writes it); a file
without holds whole tensors. Files are mapped, not read.

Plain --fp16 and --bf16 runs save their fp32 master weights with the optimizer. They are the truth, and
the model's 16-bit weights are their rounding: weights are taken from them where they exist.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor

from metaseq_plugin.checkpoint.state import read_state
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.piece import Piece

LAYOUT_VERSION = 1
MASTERS = "master_weights"
# The data folder, seen from the set's, where it lies in or beside that.
DATA_FROM_RUN = "data_from_run"
Pieces = Mapping[str, Piece]
Held = Tuple[Piece, Tensor]


class SavedFile(NamedTuple):
    """One opened file. ``optimizer_params`` names the optimizer's parameters; None: it has others."""

    path: Path
    state: Dict[str, Any]
    pieces: Dict[str, Piece]
    optimizer_params: Optional[List[str]]

    @property
    def layout(self) -> Layout:
        """How its set is cut, and how many ranks the data position counts."""
        entry = self.state.get("layout")
        if entry is not None:
            return Layout(
                entry["model_parallel"][1], entry["shard"][1], entry["data_parallel_size"]
            )
        ranks = self.settings("distributed_training").get("distributed_world_size")
        return Layout(1, 1, ranks if isinstance(ranks, int) and ranks > 0 else 1)

    def settings(self, group: str) -> Mapping[str, Any]:
        """A group of the settings of the run that saved it; {} where the file does not say."""
        held = (self.state.get("cfg") or {}).get(group)
        return held if isinstance(held, Mapping) else {}

    @property
    def optimizer(self) -> Optional[Dict[str, Any]]:
        return self.state.get("last_optimizer_state")

    def weight(self, name: str) -> Optional[Held]:
        """The parameter ``name``, in fp32 where master weights were saved."""
        tensor = self.state["model"].get(name)
        if tensor is None or name not in self.pieces:
            return None
        masters = (self.optimizer or {}).get(MASTERS)
        params = self.optimizer_params
        if masters is not None and params is not None and name in params:
            tensor = masters[params.index(name)]
        return self.pieces[name], tensor

    def optimizer_entry(self, name: str) -> Optional[Dict[str, Any]]:
        """The optimizer's state of the parameter ``name``."""
        params = self.optimizer_params
        if self.optimizer is None or params is None or name not in params:
            return None
        return self.optimizer["state"].get(params.index(name))

    def moment(self, name: str, key: str) -> Optional[Held]:
        """``key`` of the optimizer's state of ``name``, which is cut as the parameter is."""
        held = (self.optimizer_entry(name) or {}).get(key)
        piece = self.pieces.get(name)
        if piece is None or not isinstance(held, Tensor) or held.shape != piece.size:
            return None
        return piece, held


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


def open_file(path: Path) -> SavedFile:
    """Open ``path``; a file without a layout holds whole tensors, its optimizer in the model's order.

    Raises:
        UserError: no whole checkpoint, one of a later version, or one whose values are of other types.
    """
    state = read_state(path)
    layout = state.get("layout")
    if layout is None:
        pieces = {name: Piece.whole(tensor.shape) for name, tensor in state["model"].items()}
        params = _plain_order(pieces, state.get("last_optimizer_state"))
        return _with_optimizer(SavedFile(path, state, pieces, params))
    if layout["version"] != LAYOUT_VERSION:
        raise UserError(
            f"{path} must have a layout of version {LAYOUT_VERSION}, but has {layout['version']}. "
            "Update metaseq-plugin."
        )
    pieces = {
        name: Piece(tuple(box["shape"]), tuple(box["start"]), tuple(box["size"]))
        for name, box in layout["pieces"].items()
    }
    return _with_optimizer(SavedFile(path, state, pieces, layout["optimizer_params"]))


def _with_optimizer(file: SavedFile) -> SavedFile:
    """``file``, whose optimizer's state must be of the parameters that it names.

    Raises:
        UserError: another number of them, or master weights of other shapes.
    """
    state, params = file.optimizer, file.optimizer_params
    if state is None or params is None:
        return file
    numbers = [
        number for group in state.get("param_groups", ()) for number in group.get("params", ())
    ]
    masters = state.get(MASTERS)
    shapes = [file.pieces[name].size for name in params]
    has_masters = masters is None or [tuple(master.shape) for master in masters] == shapes
    if not _are_alike(state.get("state", {}), shapes):
        raise UserError(
            f"{file.path} must hold the same of every parameter in the optimizer's state, but does not. Use another "
            "checkpoint, or copy this one again."
        )
    if len(numbers) != len(params) or "state" not in state or not has_masters:
        raise UserError(
            f"{file.path} must hold the optimizer's state of its {len(params)} parameters, but holds that of "
            f"{len(numbers)}{'' if has_masters else ', or with master weights of other shapes'}. Use another "
            "checkpoint, or copy this one again."
        )
    return file


def _are_alike(entries: Mapping[int, Any], sizes: Sequence[Tuple[int, ...]]) -> bool:
    """Whether the ``entries`` of matrices hold the same, and so do those of vectors.

    Args:
        sizes: of the parameters, by their numbers.
    """
    kinds: Dict[int, Any] = {}
    for number, entry in entries.items():
        if number >= len(sizes):
            return False
        kind = {
            key: isinstance(held, Tensor) and (held.dim(), held.shape == sizes[number])
            for key, held in entry.items()
        }
        if kind and kinds.setdefault(len(sizes[number]), kind) != kind:
            return False
    return True


def _plain_order(pieces: Pieces, optimizer: Optional[Dict[str, Any]]) -> Optional[List[str]]:
    """Names of the parameters of an optimizer that was saved without them, or None."""
    if not isinstance(optimizer, dict) or "param_groups" not in optimizer:
        return None
    sizes = [len(group.get("params", ())) for group in optimizer["param_groups"]]
    if sizes == [len(pieces)]:
        return list(pieces)
    matrices = [name for name, piece in pieces.items() if len(piece.shape) > 1]
    vectors = [name for name, piece in pieces.items() if len(piece.shape) <= 1]
    # --no-decay-vectors
    return matrices + vectors if sizes == [len(matrices), len(vectors)] else None
