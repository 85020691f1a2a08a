"""What rank 0 says and keeps of a run before its first update, once everything is checked and read.

(1) ``report_start``: ten lines for the console and ``--log-file``, in the place of what fairseq prints
    (``compat/quiet_start.py`` hides it);
(2) ``keep_configuration``: all options as ``SAVE_DIR/config.yaml``, where the run saves anything. It is
    that of the latest start; every checkpoint holds the options of the run that saved it.

    OmegaConf.load("runs/a/config.yaml").optimization.lr
"""

import copy
import logging
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Iterator, Tuple

import torch
from omegaconf import OmegaConf

from metaseq_plugin.compat.checkpoint_errors import unwritable
from metaseq_plugin.distributed.run import current
from metaseq_plugin.layout.held import pieces_of
from metaseq_plugin.sizes import fill_size
from metaseq_plugin.storage import atomic

logger = logging.getLogger("fairseq_cli.train")  # --log-file is a handler of this one

CONFIGURATION = "config.yaml"
NAME_WIDTH = 10
# The first that is set counts: fairseq sets --bf16 with --memory-efficient-bf16.
PRECISIONS = (
    ("memory_efficient_bf16", "bf16 without fp32 master weights"),
    ("memory_efficient_fp16", "fp16 without fp32 master weights"),
    ("bf16", "bf16"),
    ("fp16", "fp16"),
    ("amp", "fp16 by autocast"),
)


def report_start(trainer: Any, epoch_itr: Any) -> None:
    """Log what ``trainer`` is about to train, on what, and where it keeps it."""
    for name, text in start_lines(trainer, epoch_itr):
        logger.info(f"{name:{NAME_WIDTH}} {text}")


def start_lines(trainer: Any, epoch_itr: Any) -> Iterator[Tuple[str, str]]:
    """(what, in words) of each line."""
    cfg = completed(trainer.cfg)
    yield (
        "versions",
        f"metaseq-plugin {version('metaseq-plugin')}, fairseq {version('fairseq')}, "
        f"torch {torch.__version__}, Python {platform.python_version()}",
    )
    yield "model", model_words(cfg.model, trainer)
    yield "data", data_words(trainer)
    yield "batch", batch_words(cfg, trainer.data_parallel_world_size)
    yield "precision", f"{precision_words(cfg.common)} on {device_words(trainer.device)}"
    if cfg.distributed_training.distributed_world_size > 1:
        yield "ranks", ranks_words(cfg)
    until = {"update": cfg.optimization.max_update, "epoch": cfg.optimization.max_epoch}
    ends = [f"{name} {number:,}" for name, number in until.items() if number > 0]
    yield (
        "optimizer",
        f"{cfg.optimizer._name}, --lr {', '.join(map(str, cfg.optimization.lr))} with schedule "
        f"{cfg.lr_scheduler._name}, until {' or '.join(ends) or 'it is stopped'}",
    )
    yield (
        "starts",
        f"at update {trainer.get_num_updates():,}, in epoch {epoch_itr.next_epoch_idx}",
    )
    yield "saves", saves_words(cfg.checkpoint)


def completed(cfg: Any) -> Any:
    """A copy of ``cfg`` with the dimensions of the arch, and with --bf16, which ``run.prepare`` takes away."""
    whole = copy.deepcopy(cfg)
    fill_size(whole.model, str(whole.model._name))
    whole.common.bf16 = whole.common.bf16 or current().compute_dtype == torch.bfloat16
    return whole


def model_words(cfg: Any, trainer: Any) -> str:
    """The dimensions, and the whole number of parameters however many of them this rank holds."""
    pieces = pieces_of(trainer.get_model()).values()
    whole = sum(math.prod(piece.shape) for piece in pieces)
    held = sum(math.prod(piece.size) for piece in pieces)
    share = f", of which rank 0 holds {held:,}" if held < whole else ""
    return (
        f"{cfg._name}: {cfg.decoder_layers} layers × {cfg.decoder_embed_dim} wide × "
        f"{cfg.decoder_attention_heads} heads, {whole:,} parameters{share}"
    )


def data_words(trainer: Any) -> str:
    """Where the data lie, and how long each split is that has been read."""
    task, cfg = trainer.task, trainer.cfg.task
    where = f"{cfg.data}: " if "data" in cfg else ""
    counted = task.counted_in if hasattr(task, "counted_in") else "samples"
    splits = (f"{name} {len(split):,}" for name, split in sorted(task.datasets.items()))
    return f"{where}{', '.join(splits)} {counted}"


def batch_words(cfg: Any, data_parallel_size: int) -> str:
    """How an update comes about, and the most tokens that it can have."""
    dataset, update_freq = cfg.dataset, cfg.optimization.update_freq
    rows, limits = [], []
    if dataset.batch_size is not None:
        rows.append(f"{dataset.batch_size:,} rows")
        if "tokens_per_sample" in cfg.task:
            limits.append(dataset.batch_size * cfg.task.tokens_per_sample)
    if dataset.max_tokens is not None:
        rows.append(f"{dataset.max_tokens:,} tokens")
        limits.append(dataset.max_tokens)
    text = (
        f"at most {' and '.join(rows)} a rank × {data_parallel_size} data-parallel "
        f"{'rank' if data_parallel_size == 1 else 'ranks'} × --update-freq "
        f"{', '.join(map(str, update_freq))}"
    )
    if not limits:
        return text
    tokens = min(limits) * data_parallel_size * update_freq[0]
    return f"{text}: up to {tokens:,} tokens an update"


def precision_words(common: Any) -> str:
    """The type that is computed in."""
    return next((words for name, words in PRECISIONS if common[name]), "fp32")


def device_words(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def ranks_words(cfg: Any) -> str:
    """The layout of the ranks."""
    now, distributed = current(), cfg.distributed_training
    parts = now.grid.model_parallel_size
    ranks = distributed.distributed_world_size
    return (
        f"{ranks} = {ranks // parts} data-parallel ({distributed.ddp_backend}) × "
        f"{parts} model {'part' if parts == 1 else 'parts'}"
    )


def saves_words(checkpoint: Any) -> str:
    if checkpoint.no_save:
        return "nothing (--no-save)"
    every = checkpoint.save_interval_updates
    when = f"every {every:,} updates and " if every > 0 else ""
    return f"in {checkpoint.save_dir}, {when}after epochs; all options in its {CONFIGURATION}"


def keep_configuration(cfg: Any) -> None:
    """Write all options of the run into its folder, unless it saves nothing.

    Raises:
        UserError: the folder cannot be written.
    """
    if cfg.checkpoint.no_save:
        return
    folder = Path(cfg.checkpoint.save_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(folder / CONFIGURATION) as unfinished:
            unfinished.write_text(OmegaConf.to_yaml(completed(cfg)), encoding="utf-8")
    except OSError as error:
        raise unwritable(folder, error.strerror) from error
