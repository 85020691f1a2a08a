"""Find out whose model lies at a path, and read it: fairseq's, Hugging Face's or metaseq's.

    a folder with config.json                              Hugging Face's
    a file, run folder or set of files whose cfg["model"]
        is of --arch opt…                                  fairseq's
        is of transformer_lm…                              metaseq's

Whatever it was, it comes out as a ``Model``: our settings, tensors by our names that are made when they
are asked for, and the folder with its tokenizer.
"""

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional

import torch
from omegaconf import OmegaConf

from metaseq_plugin.checkpoint.manifest import set_name
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_optimizer import state_with_optimizer
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.fairseq import IN_FOLDER, Checkpoint, exists, read_checkpoint
from metaseq_plugin.formats.hf.config import CONFIG_FILE, from_hf_config, vocab_size_of
from metaseq_plugin.formats.hf.names import EMBEDDING, check_tensors, rename_to_fairseq
from metaseq_plugin.formats.hf.weights import read_weights
from metaseq_plugin.formats.metaseq import optimizer as metaseq_optimizer
from metaseq_plugin.formats.metaseq.files import Grid, find_files
from metaseq_plugin.formats.metaseq.names import is_metaseq, plain_settings
from metaseq_plugin.formats.metaseq.optimizer import Optimizer, read_optimizer
from metaseq_plugin.formats.metaseq.read import read_metaseq, read_parts
from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.models.opt import OPTConfig, OPTDecoder, check_config
from metaseq_plugin.sizes import fill_size
from metaseq_plugin.storage import json_file, torch_file
from metaseq_plugin.storage.lazy import Tensors
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE as DICT
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_MULTIPLE, numbered_dictionary

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


def read_model(src: Path, data: Optional[Path] = None, trust_pickle: bool = False) -> Model:
    """Read the model at ``src``.

    Args:
        data: folder with the tokenizer's files; None: beside the weights, or where it was trained.
        trust_pickle: let metaseq's files hold more than plain data.

    Raises:
        UserError: nothing there, not an OPT, damaged or incomplete.
    """
    if (src / CONFIG_FILE).is_file():
        return read_hf(src, data)
    grid = find(src)
    state = torch_file.read(grid[0][0], trust_pickle)
    if (
        isinstance(state, dict)
        and "layout" not in state
        and isinstance(state.get("model"), Mapping)
    ):
        settings = plain_settings((state.get("cfg") or {}).get("model"))
        if is_metaseq(settings or plain_settings(state.get("args")), state["model"]):
            return read_of_metaseq(grid, data, trust_pickle)
    return read_fairseq(src, data)


def find(src: Path) -> Grid:
    """The checkpoint's files that ``src`` means, ours before metaseq's."""
    if src.is_dir():
        for name in IN_FOLDER:
            if exists(src / name):
                return [set_name(src / name).files()[:1]]
        if not any(src.glob("*.pt")):
            raise UserError(
                f"SRC must be a Hugging Face folder with {CONFIG_FILE} or hold a checkpoint such as "
                f"{', '.join(IN_FOLDER)} or reshard.pt, but {src} holds neither. Give the model's folder."
            )
    members = [] if src.exists() else set_name(src).files()
    return find_files(members[0] if members else src)


def read_hf(src: Path, data: Optional[Path]) -> Model:
    """A Hugging Face folder."""
    config, source = json_file.read(src / CONFIG_FILE), str(src / CONFIG_FILE)
    cfg = complete_config(from_hf_config(config, source))
    check_config(cfg)
    expected = expected_shapes(cfg, vocab_size_of(config, DICTIONARY_MULTIPLE, source))
    tensors = rename_to_fairseq(read_weights(src), str(src))
    check_tensors(tensors, expected, str(src))
    held = Tensors.of(tensors).select(list(expected))
    return Model(HF, str(src), cfg, held, data or src, lambda: None)


def read_fairseq(src: Path, data: Optional[Path]) -> Model:
    """A checkpoint that fairseq saved of our model."""
    source = read_checkpoint(src)
    cfg = complete_config(source.model_settings)
    expected = expected_shapes(cfg, len(source.tensors[EMBEDDING]))
    check_tensors(source.tensors, expected, str(source.path))
    tensors = Tensors.of(source.tensors).select(list(expected))
    folder = data or find_data(source)
    optimizer = partial(_fairseq_optimizer, source.path, expected)
    return Model(FAIRSEQ, str(source.path), cfg, tensors, folder, optimizer)


def _fairseq_optimizer(path: Path, shapes: Dict[str, torch.Size]) -> Optional[Optimizer]:
    if len(set_name(path).files()) > 1:
        names = list(shapes)
        wanted = {name: Piece.whole(shape) for name, shape in shapes.items()}
        state = state_with_optimizer(CheckpointSet.open(path), wanted, names)
    else:
        state = torch_file.read(path)
        names = (state.get("layout") or {}).get("optimizer_params", list(shapes))
    return metaseq_optimizer.from_fairseq(state, names, [shapes[n] for n in names], str(path))


def read_of_metaseq(grid: Grid, data: Optional[Path], trust_pickle: bool) -> Model:
    """A checkpoint of metaseq's."""

    def shapes_of(settings: Dict[str, Any], vocab_size: int) -> Dict[str, torch.Size]:
        cfg = complete_config(settings)
        check_config(cfg)
        if vocab_size % DICTIONARY_MULTIPLE:
            raise UserError(
                f"`{EMBEDDING}` must have a multiple of {DICTIONARY_MULTIPLE} rows, but in "
                f"{grid[0][0]} has {vocab_size}. Convert from a complete, unmodified checkpoint."
            )
        return expected_shapes(cfg, vocab_size)

    read = read_metaseq(read_parts(grid, trust_pickle), shapes_of)
    first, number = grid[0][0], sum(map(len, grid))
    label = str(first) + (f" and {number - 1} more" if number > 1 else "")
    cfg = complete_config(read.settings)
    optimizer = partial(read_optimizer, read)
    return Model(METASEQ, label, cfg, read.tensors, data or first.parent, optimizer)


def complete_config(settings: Mapping[str, Any]) -> Any:
    """``OPTConfig`` as fairseq hands it to the model; what ``settings`` leaves out is its arch's."""
    known = {f.name for f in fields(OPTConfig)} & settings.keys()
    cfg = OmegaConf.merge(OmegaConf.structured(OPTConfig), {name: settings[name] for name in known})
    fill_size(cfg, cfg._name or "opt")
    return cfg


def expected_shapes(cfg: Any, vocab_size: int) -> Dict[str, torch.Size]:
    """Name and shape of every tensor of the model that ``cfg`` describes."""
    with torch.device("meta"):
        decoder = OPTDecoder(cfg, numbered_dictionary(vocab_size))
    return {f"decoder.{name}": tensor.shape for name, tensor in decoder.state_dict().items()}


def find_data(source: Checkpoint) -> Optional[Path]:
    """The folder with the checkpoint's dictionary: its own, else the one it was trained on."""
    candidates = [source.path.parent]
    if source.data:
        candidates.append(Path(source.data.split(":")[0]))
    return next((folder for folder in candidates if (folder / DICT).is_file()), None)
