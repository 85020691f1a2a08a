"""The one reader of models: whatever lies at a path comes out as a ``Model``.

The steps: (1) find the files that the path means (locate.py), (2) tell by their content whose they are,

    a folder with config.json                              Hugging Face's
    files whose cfg["model"] is of --arch opt…             fairseq's
    files whose cfg["model"] is of transformer_lm…         metaseq's

(3) map them and hold names and shapes of the tensors against the model that the settings describe.
Tensors are made when they are asked for, so that nothing is in memory yet.
"""

from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional

import torch

from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_optimizer import state_with_optimizer
from metaseq_plugin.checkpoint.state import read_state
from metaseq_plugin.formats.fairseq import read_checkpoint
from metaseq_plugin.formats.hf.config import CONFIG_FILE, THEIR_NAMES, from_hf_config, vocab_size_of
from metaseq_plugin.formats.hf.names import rename_to_fairseq
from metaseq_plugin.formats.hf.weights import read_weights
from metaseq_plugin.formats.locate import Located, grid_of, is_hf, locate
from metaseq_plugin.formats.metaseq.names import is_metaseq, settings_of
from metaseq_plugin.formats.metaseq.optimizer import Optimizer, from_fairseq, read_optimizer
from metaseq_plugin.formats.metaseq.read import read_metaseq
from metaseq_plugin.formats.tensors import (
    EMBEDDING,
    check_sizes,
    check_tensors,
    complete_config,
    expected_shapes,
    finite,
)
from metaseq_plugin.layout.peers import ALONE, Ranks
from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.storage import json_file, torch_file
from metaseq_plugin.storage.lazy import Tensors

FAIRSEQ, HF, METASEQ = "fairseq", "hf", "metaseq"


class Model(NamedTuple):
    """A model on disk, checked, its tensors not yet read."""

    format: str
    label: str  # what was read, for people
    cfg: Any  # OPTConfig, complete
    tensors: Tensors  # by our names, in our model's order
    data: Optional[Path]  # folder with the tokenizer's files
    optimizer: Callable[[], Optional[Optimizer]]  # reads it, or refuses

    @property
    def vocab_size(self) -> int:
        return len(self.tensors.twins[EMBEDDING])

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the weights."""
        return self.tensors.twins[EMBEDDING].dtype


def read_model(
    src: Path, data: Optional[Path] = None, trust_pickle: bool = False, ranks: Ranks = ALONE
) -> Model:
    """Read the model at ``src``.

    Args:
        data: folder with the tokenizer's files; None: beside the weights, or where it was trained.
        trust_pickle: let metaseq's files hold more than plain data.
        ranks: those that read it together, each for its own part.

    Raises:
        UserError: nothing there, not an OPT, damaged or incomplete.
    """
    if is_hf(src):
        return read_hf(src, data)
    found = locate(src)
    if _is_of_metaseq(found, trust_pickle):
        return read_of_metaseq(found, data, trust_pickle)
    return read_fairseq(found, data, ranks)


def _is_of_metaseq(found: Located, trust_pickle: bool) -> bool:
    """Whether the files are metaseq's, by the content of the first; metaseq writes no manifest."""
    state = {} if found.has_manifest else torch_file.read(found.files[0], trust_pickle)
    if not isinstance(state, dict) or not isinstance(state.get("model"), Mapping):
        return False
    return "layout" not in state and is_metaseq(settings_of(state), state["model"])


def read_hf(src: Path, data: Optional[Path]) -> Model:
    """A Hugging Face folder."""
    config, source = json_file.read(src / CONFIG_FILE), str(src / CONFIG_FILE)
    cfg = complete_config(from_hf_config(config, source))
    vocab_size = vocab_size_of(config, source)
    tensors = rename_to_fairseq(read_weights(src), str(src))
    check_sizes(cfg, vocab_size, tensors, source, spelled=THEIR_NAMES)
    expected = expected_shapes(cfg, vocab_size)
    check_tensors(tensors, expected, str(src))
    held = finite(Tensors.of(tensors).select(list(expected)), str(src))
    return Model(HF, str(src), cfg, held, data or src, lambda: None)


def read_fairseq(found: Located, data: Optional[Path], ranks: Ranks) -> Model:
    """A checkpoint that fairseq saved of our model."""
    settings, trained_in, shown, held = read_checkpoint(found, ranks)
    cfg, vocab_size = complete_config(settings), len(shown[EMBEDDING])
    expected = expected_shapes(cfg, vocab_size)
    check_tensors(shown, expected, str(found.path))
    tensors = finite(held.select(list(expected)), str(found.path))
    optimizer = partial(_fairseq_optimizer, found, expected)
    return Model(FAIRSEQ, str(found.path), cfg, tensors, data or trained_in, optimizer)


def _fairseq_optimizer(found: Located, shapes: Dict[str, torch.Size]) -> Optional[Optimizer]:
    if found.is_set:
        names = list(shapes)
        wanted = {name: Piece.whole(shape) for name, shape in shapes.items()}
        state = state_with_optimizer(CheckpointSet.open(found.path), wanted, names)
    else:
        state = read_state(found.files[0])
        names = (state.get("layout") or {}).get("optimizer_params") or list(shapes)
    return from_fairseq(state, {name: shapes[name] for name in names}, str(found.path))


def read_of_metaseq(found: Located, data: Optional[Path], trust_pickle: bool) -> Model:
    """A checkpoint of metaseq's."""
    grid = grid_of(found.files)
    first, number = grid[0][0], len(found.files)
    read = read_metaseq(grid, trust_pickle)
    label = str(first) + (f" and {number - 1} more" if number > 1 else "")
    optimizer = partial(read_optimizer, read)
    tensors = finite(read.tensors, label)
    return Model(METASEQ, label, read.cfg, tensors, data or first.parent, optimizer)
