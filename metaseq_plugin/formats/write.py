"""Write a model that was read from anywhere as fairseq's, Hugging Face's or metaseq's folder.

Each takes the same arguments, writes into a folder that is not DST yet, and says which weight files it
made and where the tokenizer's files are from.
"""

import argparse
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from metaseq_plugin.formats.fairseq import FAIRSEQ_CHECKPOINT, build_state
from metaseq_plugin.formats.hf.config import CONFIG_FILE, to_hf_config
from metaseq_plugin.formats.hf.names import to_hf
from metaseq_plugin.formats.hf.tokenizer import write_generation_config
from metaseq_plugin.formats.hf.weights import cast, dtype_of, write_weights
from metaseq_plugin.formats.metaseq import optimizer as metaseq_optimizer
from metaseq_plugin.formats.metaseq.optimizer import MOMENTS, Optimizer
from metaseq_plugin.formats.metaseq.write import Layout, check_layout, write_metaseq
from metaseq_plugin.formats.model import FAIRSEQ, HF, METASEQ, Model
from metaseq_plugin.formats.tokenizer import (
    fairseq_tokenizer,
    hf_tokenizer,
    metaseq_tokenizer,
)
from metaseq_plugin.sizes import SIZES, fill_size
from metaseq_plugin.storage import json_file
from metaseq_plugin.storage.lazy import Maker, Tensors, twin
from metaseq_plugin.tokenizers.dictionary import check_dictionary_size, load_dictionary

NO_TOKENIZER = "none found; set --data to the folder that holds it"


class Request(NamedTuple):
    """What the command line asks for."""

    dst: Path
    dtype: Optional[torch.dtype]
    max_shard_bytes: int
    layout: Layout
    with_optimizer: bool


class Plan(NamedTuple):
    """What is ready to be written."""

    tensors: Tensors  # by our names, of the data type asked for
    optimizer: Optional[Optimizer]
    ids: Optional[Dict[str, int]]  # the source's dictionary, where it has one that counts


Written = Tuple[List[str], str]  # weight files, and the tokenizer in words


def prepare(model: Model, request: Request, to: str) -> Plan:
    """Look at everything that can be refused before anything is written."""
    if to == METASEQ:
        check_layout(request.layout, model.cfg.decoder_attention_heads)
    ids = None
    if model.format == FAIRSEQ and model.data is not None:
        ids = load_dictionary(model.data).indices
        check_dictionary_size(len(ids), model.vocab_size, model.data)
    keeps_optimizer = request.with_optimizer and to != HF
    optimizer = model.optimizer() if keeps_optimizer else None
    return Plan(converted(model.tensors, request.dtype), optimizer, ids)


def write_fairseq(folder: Path, model: Model, plan: Plan, request: Request) -> Written:
    """``checkpoint.pt`` and a data folder's files."""
    vocab_size = model.vocab_size
    source = model.data or folder
    note = fairseq_tokenizer(source, folder, vocab_size)
    check_dictionary_size(len(load_dictionary(folder)), vocab_size, source)
    # In the model's own order, as fairseq would have saved it.
    held = {name: cast(name, tensor, None) for name, tensor in plan.tensors.items()}
    state = build_state(held, fairseq_cfg(model.cfg, request.dst))
    if plan.optimizer is not None:
        state["last_optimizer_state"] = metaseq_optimizer.to_fairseq(plan.optimizer, list(held))
        state["optimizer_history"] = [plan.optimizer.history]
    torch.save(state, folder / FAIRSEQ_CHECKPOINT)
    return [FAIRSEQ_CHECKPOINT], note


def write_hf(folder: Path, model: Model, plan: Plan, request: Request) -> Written:
    """What ``from_pretrained`` reads."""
    dtype_name = dtype_of(plan.tensors.twins, None)[1]
    json_file.write(folder / CONFIG_FILE, to_hf_config(model.cfg, model.vocab_size, dtype_name))
    write_generation_config(folder)
    files = write_weights(folder, plan.tensors.renamed(to_hf), request.max_shard_bytes)
    if model.data is None:
        return files, NO_TOKENIZER
    return files, hf_tokenizer(model.data, folder, plan.ids, model.cfg.decoder_max_positions)


def write_of_metaseq(folder: Path, model: Model, plan: Plan, request: Request) -> Written:
    """metaseq's files, in as many parts and shards as asked for."""
    files = write_metaseq(folder, plan.tensors, model.cfg, request.layout, plan.optimizer)
    if model.data is None:
        return files, NO_TOKENIZER
    return files, metaseq_tokenizer(model.data, folder, model.vocab_size, plan.ids)


WRITERS: Dict[str, Callable[[Path, Model, Plan, Request], Written]] = {
    FAIRSEQ: write_fairseq,
    HF: write_hf,
    METASEQ: write_of_metaseq,
}


def converted(tensors: Tensors, dtype: Optional[torch.dtype]) -> Tensors:
    """The same tensors in ``dtype``; None keeps each one's own."""
    if dtype is None:
        return tensors

    def maker(name: str) -> Maker:
        return lambda: cast(name, tensors[name], dtype)

    return Tensors(
        {name: maker(name) for name in tensors},
        {name: twin(held.shape, dtype) for name, held in tensors.twins.items()},
    )


def moment_bytes(plan: Plan) -> int:
    """Disk room of the optimizer's state."""
    if plan.optimizer is None:
        return 0
    held = [t for name in MOMENTS for t in plan.optimizer.moments[name].twins.values()]
    return sum(t.numel() * t.element_size() for t in held)


def fairseq_cfg(cfg: Any, data: Path) -> Dict[str, Any]:
    """A complete fairseq configuration, as a run with default options would have saved it."""
    arguments = ["", "--task", "opt_language_modeling", "--arch", "opt"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
    container = OmegaConf.to_container(
        convert_namespace_to_omegaconf(parsed), resolve=True, enum_to_str=True
    )
    assert isinstance(container, dict)
    container["model"] = {**OmegaConf.to_container(cfg), "_name": arch_of(cfg)}
    container["task"]["data"] = str(data.resolve())
    container["task"]["tokens_per_sample"] = cfg.decoder_max_positions
    return container


def arch_of(cfg: Any) -> str:
    """The name of the size that ``cfg`` has, or the bare ``opt``."""
    for name in SIZES:
        size = argparse.Namespace()
        fill_size(size, f"opt_{name}")
        if all(cfg[option] == value for option, value in vars(size).items()):
            return f"opt_{name}"
    return "opt"
