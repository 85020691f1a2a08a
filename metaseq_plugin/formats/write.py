"""Write a model that was read from anywhere as fairseq's, Hugging Face's or metaseq's folder.

Each takes the same arguments, writes into a folder that is not DST yet, and says which weight files it
made and where the tokenizer's files are from.
"""

from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import torch

from metaseq_plugin.formats.fairseq import FAIRSEQ_CHECKPOINT, build_state, fairseq_cfg
from metaseq_plugin.formats.hf.config import CONFIG_FILE, to_hf_config, write_generation_config
from metaseq_plugin.formats.hf.names import to_hf
from metaseq_plugin.formats.hf.weights import write_weights
from metaseq_plugin.formats.metaseq.optimizer import Optimizer, to_fairseq
from metaseq_plugin.formats.metaseq.write import write_metaseq
from metaseq_plugin.formats.model import FAIRSEQ, HF, METASEQ, Model
from metaseq_plugin.formats.tensors import in_dtype, num_bytes, widest_dtype
from metaseq_plugin.formats.tokenizer import (
    fairseq_tokenizer,
    hf_tokenizer,
    metaseq_tokenizer,
)
from metaseq_plugin.layout.layout import Layout, check_divides
from metaseq_plugin.storage import json_file, torch_file
from metaseq_plugin.storage.lazy import Tensors
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

    @property
    def num_bytes(self) -> int:
        """Disk room of the weights and of the optimizer's state."""
        moments = self.optimizer.moments.values() if self.optimizer else ()
        return sum(num_bytes(held.twins) for held in (self.tensors, *moments))


Written = Tuple[List[str], str]  # weight files, and the tokenizer in words


def plan_writing(model: Model, request: Request, to: str) -> Plan:
    """Look at everything that can be refused before anything is written."""
    if to == METASEQ:
        request.layout.check()
        heads = model.cfg.decoder_attention_heads
        check_divides(request.layout.model_parallel_size, {"the heads": heads})
    ids = None
    if model.format == FAIRSEQ and model.data is not None:
        ids = load_dictionary(model.data).indices
        check_dictionary_size(len(ids), model.vocab_size, model.data)
    keeps_optimizer = request.with_optimizer and to != HF
    optimizer = model.optimizer() if keeps_optimizer else None
    return Plan(in_dtype(model.tensors, request.dtype), optimizer, ids)


def write_fairseq(folder: Path, model: Model, plan: Plan, request: Request) -> Written:
    """``checkpoint.pt`` and a data folder's files."""
    vocab_size = model.vocab_size
    source = model.data or folder
    note = fairseq_tokenizer(source, folder, vocab_size)
    check_dictionary_size(len(load_dictionary(folder)), vocab_size, source)
    # In the model's own order, as fairseq would have saved it.
    held = {name: torch_file.own_memory(tensor) for name, tensor in plan.tensors.items()}
    state = build_state(held, fairseq_cfg(model.cfg, request.dst))
    if plan.optimizer is not None:
        state["last_optimizer_state"] = to_fairseq(plan.optimizer, list(held))
        state["optimizer_history"] = [plan.optimizer.history]
    torch_file.write(folder / FAIRSEQ_CHECKPOINT, state)
    return [FAIRSEQ_CHECKPOINT], note


def write_hf(folder: Path, model: Model, plan: Plan, request: Request) -> Written:
    """What ``from_pretrained`` reads."""
    dtype_name = str(widest_dtype(plan.tensors.twins)).removeprefix("torch.")
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
