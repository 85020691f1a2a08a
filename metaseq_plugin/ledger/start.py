"""What the ledger says of a start: command, options, layout, versions, code, hardware and data; and what changed.

``began`` asks the machine, and takes a few tenths of a second; ``changes`` compares with what the start before it said.
"""

import hashlib
import json
import math
import os
import platform
import shlex
import socket
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Sequence

import torch
from omegaconf import OmegaConf

from metaseq_plugin.checkpoint.run_lock import process_start
from metaseq_plugin.compat.stop_on_signal import command_line
from metaseq_plugin.layout.held import pieces_of
from metaseq_plugin.ledger.flops import model_flops, recomputed_share
from metaseq_plugin.ledger.git_state import look
from metaseq_plugin.ledger.surroundings import cpu_model, versions
from metaseq_plugin.sizes import size_of
from metaseq_plugin.storage.json_lines import Row, finite

# What every start has of its own.
OF_THE_START = (
    "distributed_training.distributed_init_method",
    "distributed_training.distributed_port",
    "distributed_training.distributed_rank",
    "distributed_training.device_id",
)
# fairseq's own groups of options for training, and those of its other commands.
OWN_GROUPS = ("common", "distributed_training", "dataset", "optimization", "checkpoint")
OF_OTHER_COMMANDS = ("common_eval", "eval_lm", "generation", "interactive", "scoring")
SCHEDULE = ("optimization.lr", "lr_scheduler.")  # what an event ``lr`` is for
COMPARED = {"options": "options", "layout": "layout", "code": "git", "versions": "versions"}
EDGE_BYTES = 65_536  # of each end of a data file that its hash has seen
MAX_FILES = 10_000


def began(cfg: Any) -> Row:
    """The fields of ``start``; ``cfg`` is fairseq's of the whole run."""
    return {
        "command": shlex.join(command_line()),
        "folder": os.getcwd(),
        "options": flat_options(cfg),
        "layout": layout(cfg),
        "versions": {
            "python": platform.python_version(),
            **{name: number for name, number in versions().items() if number is not None},
        },
        "git": code(),
        "hardware": hardware(cfg),
        "data": data(cfg),
    }


def process_began() -> float:
    """When this process started, in seconds since 1970."""
    ticks = process_start(os.getpid())
    assert ticks is not None, "this process runs"
    uptime = float(Path("/proc/uptime").read_text("ascii").split()[0])
    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))


def flat_options(cfg: Any) -> Row:
    """The options of training by group and name: "optimization.lr" -> [0.0006]; as JSON has them.

    Components repeat what stands in fairseq's own groups, as optimizer.lr does; what is the same is left out.
    """
    groups: Dict[str, Any] = OmegaConf.to_container(cfg, enum_to_str=True)
    plain: Dict[str, Row] = json.loads(json.dumps(finite(groups), default=str))
    common = {name: value for group in OWN_GROUPS for name, value in plain[group].items()}
    return {
        f"{group}.{name}": value
        for group, options in plain.items()
        if isinstance(options, dict) and group not in OF_OTHER_COMMANDS
        for name, value in options.items()
        if group in OWN_GROUPS or name not in common or common[name] != value
        if (name, value) != ("_name", None)
    }


def layout(cfg: Any) -> Row:
    distributed, parts = cfg.distributed_training, cfg.common.model_parallel_size
    ranks = distributed.distributed_world_size
    return {
        "ranks": ranks,
        "model_parallel_size": parts,
        "data_parallel_size": ranks // parts,
        "ddp_backend": str(distributed.ddp_backend),
        "update_freq": list(cfg.optimization.update_freq),
    }


def code() -> Row:
    """The commit of the repository of the current folder; empty where there is none."""
    state = look(Path.cwd())
    if state is None:
        return {}
    return {
        "root": state.root, "commit": state.commit, "branch": state.branch, "is_dirty": state.is_dirty,
    }  # fmt: skip


def hardware(cfg: Any) -> Row:
    """What rank 0 runs on; ``devices`` counts those of all ranks."""
    on_gpu = torch.cuda.is_available() and not cfg.common.cpu
    ranks = cfg.distributed_training.distributed_world_size
    a_node = int(
        os.environ.get("LOCAL_WORLD_SIZE", min(ranks, cfg.distributed_training.nprocs_per_node))
    )
    return {
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "devices": ranks,
        "nodes": -(-ranks // max(1, a_node)),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def data(cfg: Any) -> Row:
    """Where the data lie, how much there is, and a hash of it; empty for a task without.

    The hash is SHA-256 over name, size, and the first and last EDGE_BYTES of each file, in the order of names: another
    corpus or another order shows, a byte that was changed amid a large file does not. Beyond MAX_FILES none is taken, nor where a file
    cannot be read: then ``problem`` says which.
    """
    if "data" not in cfg.task or not cfg.task.data:
        return {}
    path = str(cfg.task.data)
    try:
        return {"path": path, **contents(path.split(":"))}
    except OSError as error:  # a file that training may not need, or that somebody has just deleted
        return {"path": path, "hash": None, "problem": f"{error.filename}: {error.strerror}"}


def contents(folders: Sequence[str]) -> Row:
    """How many files there are in ``folders``, their bytes and hash.

    Raises:
        OSError: one cannot be read.
    """
    files = [(Path(folder), path) for folder in folders for path in files_below(Path(folder))]
    found: Row = {"files": len(files), "bytes": sum(path.stat().st_size for _, path in files)}
    if len(files) > MAX_FILES:
        return {**found, "hash": None}
    digest = hashlib.sha256()
    for folder, path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}\0{size}\0".encode("utf-8", "surrogateescape"))
        with path.open("rb") as stream:
            digest.update(stream.read(EDGE_BYTES))
            stream.seek(max(stream.tell(), size - EDGE_BYTES))
            digest.update(stream.read(EDGE_BYTES))
    return {**found, "hash": digest.hexdigest()}


def model_facts(trainer: Any) -> Row:
    """The fields of ``ready``: of the model as it was built, and of its samples.

    FLOPs are those of a token in training (``flops.py``): attention as a full square, and causal; "hardware" FLOPs
    count what --checkpoint-activations computes again.
    """
    cfg = trainer.cfg
    pieces = pieces_of(trainer.get_model()).values()
    tokens, types = cfg.task.tokens_per_sample, len(trainer.task.target_dictionary)
    settings: Any = OmegaConf.to_container(cfg.model, enum_to_str=True)
    size = size_of(settings)
    flops, causal = (
        model_flops(size, tokens, types, is_causal, cfg.model.dropout)
        for is_causal in (False, True)
    )
    return {
        "num_parameters": sum(math.prod(piece.shape) for piece in pieces),
        "tokens_per_sample": tokens,
        "vocab_size": types,
        "flops_per_token": flops.training,
        "causal_flops_per_token": causal.training,
        "hardware_flops_per_token": flops.hardware(recomputed_share(settings, size.layers)),
    }


def files_below(folder: Path) -> List[Path]:
    """The files of a data folder in the order of their names; hidden ones, as an index is, are not data."""
    found: Iterator[Path] = (
        Path(place) / name
        for place, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )
    return sorted(path for path in found if path.is_file())


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Dict[str, Dict[str, List[Any]]]:
    """What is other than at the start ``before``: options, layout, code and versions, name -> [before, now]."""
    found = {
        what: difference(mapping(before.get(field)), mapping(now.get(field)))
        for what, field in COMPARED.items()
    }
    return {what: names for what, names in found.items() if names}


def mapping(value: Any) -> Mapping[str, Any]:
    """``value``; empty where a damaged line holds something else."""
    return value if isinstance(value, Mapping) else {}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> Dict[str, List[Any]]:
    names = [*before, *(name for name in now if name not in before)]
    return {
        name: [before.get(name), now.get(name)]
        for name in names
        if before.get(name) != now.get(name) and name not in OF_THE_START
    }


def of_the_schedule(options: Mapping[str, List[Any]]) -> Dict[str, List[Any]]:
    """Those of changed ``options`` that set the learning rate."""
    return {name: pair for name, pair in options.items() if name.startswith(SCHEDULE)}
