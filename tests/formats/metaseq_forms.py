"""metaseq's checkpoint forms by a hand-written inverse, because Meta's own files cannot be had here.

Written from the facts (the model's fused k, v, q rows, Megatron's cuts, fairscale's flattening, the
trainer's entries), with plain torch calls and without the package's reader or writer. tests/checkpoint/
test_metaseq_fairscale.py holds the flattening against fairscale's real FSDP.
"""

import argparse
from pathlib import Path
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.formats.folders import VOCAB_SIZE
from tests.opt_models import KINDS, decoder

Weights = dict[str, Tensor]


def weights(kind: str = "pre-norm", vocab_size: int = VOCAB_SIZE) -> Weights:
    """A random model by fairseq's names, which are metaseq's but for q, k and v."""
    model = decoder(vocab_size=vocab_size, **KINDS[kind])
    return {f"decoder.{name}": tensor.clone() for name, tensor in model.state_dict().items()}


def moments(like: Weights, seed: int = 5) -> tuple[Weights, Weights]:
    """Random fp32 means and mean squares for each parameter."""
    generator = torch.Generator().manual_seed(seed)
    means = {n: torch.randn(t.shape, generator=generator) for n, t in like.items()}
    return means, {n: torch.rand(t.shape, generator=generator) for n, t in like.items()}


def settings(kind: str = "pre-norm", **changes: Any) -> argparse.Namespace:
    """``cfg["model"]`` as the command line of a training run leaves it."""
    shape = KINDS[kind]
    held = dict(
        _name="transformer_lm_megatron", arch="transformer_lm_megatron", activation_fn="relu",
        decoder_layers=3, decoder_embed_dim=32, decoder_attention_heads=4, decoder_ffn_embed_dim=80,
        dropout=0.1, attention_dropout=0.1, share_decoder_input_output_embed=True,
        decoder_learned_pos=True, no_scale_embedding=True, full_megatron_init=True,
        megatron_init_sigma=0.006, tokens_per_sample=shape["decoder_max_positions"],
        max_target_positions=None, ddp_backend="fully_sharded",
    )  # fmt: skip
    if kind == "350m":
        held.update(decoder_normalize_before=False, decoder_input_dim=16, decoder_output_dim=16)
    return argparse.Namespace(**{**held, **changes})


def fuse(part: Weights) -> Weights:
    """q, k and v of each layer as one, in the place of the first of them."""
    fused: Weights = {}
    for name, tensor in part.items():
        if not any(f".{letter}_proj." in name for letter in "qkv"):
            fused[name] = tensor
        elif ".q_proj." in name:
            k, v = (part[name.replace("q_proj", letter)] for letter in ("k_proj", "v_proj"))
            fused[name.replace("q_proj", "qkv_proj")] = torch.cat([k, v, tensor])
    return fused


def model_parts(whole: Weights, num_parts: int, fused: bool = True) -> list[Weights]:
    """What each rank of a tensor-parallel group holds."""
    parts: list[Weights] = [{} for _ in range(num_parts)]
    for name, tensor in whole.items():
        words = name.split(".")
        dim = None
        if words[-2] in ("q_proj", "k_proj", "v_proj", "fc1", "embed_tokens"):
            dim = 0
        elif words[-2] in ("out_proj", "fc2") and words[-1] == "weight":
            dim = 1
        for rank in range(num_parts):
            own = tensor if dim is None else tensor.chunk(num_parts, dim)[rank]
            parts[rank][name] = own.clone()
    return [fuse(part) for part in parts] if fused else parts


def flat_groups(part: Weights, one_root: bool) -> dict[str, list[str]]:
    """Path of each wrapped module -> the parameters it owns, the root first."""
    groups: dict[str, list[str]] = {"": []}
    for name in part:
        number = name.split(".")[2]
        path = f"decoder.layers.{number}" if name.startswith("decoder.layers.") else ""
        groups.setdefault("" if one_root else path, []).append(name)
    return groups


def shard(flat: Tensor, num_shards: int) -> list[tuple[Tensor, int]]:
    """fairscale's cut of a flat tensor, and the padding of each piece."""
    chunks = list(flat.chunk(num_shards))
    chunks += [flat.new_empty(0)] * (num_shards - len(chunks))
    longest = len(chunks[0])
    return [(F.pad(chunk, [0, longest - len(chunk)]), longest - len(chunk)) for chunk in chunks]


def flatten(
    part: Weights, num_shards: int, one_root: bool = False
) -> tuple[list[Weights], list[dict[str, Any]]]:
    """Each shard's flat parameters and its ``shard_metadata``."""
    models: list[Weights] = [{} for _ in range(num_shards)]
    described: list[list[dict[str, Any]]] = [[] for _ in range(num_shards)]
    for path, names in flat_groups(part, one_root).items():
        flat = torch.cat([part[name].reshape(-1) for name in names])
        for rank, (piece, padding) in enumerate(shard(flat, num_shards)):
            models[rank][f"{path}.flat_param_0".lstrip(".")] = piece
            entry = {
                "names": [name[len(path) + 1 :] if path else name for name in names],
                "shapes": [part[name].shape for name in names],
                "numels": [part[name].numel() for name in names],
                "padding": padding,
            }
            described[rank].append(
                {
                    "fsdp_path": path,
                    "params": {"flat_param_0": entry},
                    "no_broadcast_optim_state": False,
                    "shared_param_info": [],
                }
            )
    return models, [
        {"param_metadata": entries, "buffer_names": ["decoder.version"]} for entries in described
    ]


def optimizer_state(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """``last_optimizer_state`` of metaseq's Adam in a run of 16 bits."""
    return {
        "state": {
            i: {"step": 7, "exp_avg": mean.clone(), "exp_avg_sq": square.clone()}
            for i, (mean, square) in enumerate(pairs)
        },
        "param_groups": [
            {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "amsgrad": False,
             "params": list(range(len(pairs)))}
        ],
        "loss_scale": 4.0,
    }  # fmt: skip


def state(model: Weights, named: argparse.Namespace, **entries: Any) -> dict[str, Any]:
    """All that a file of metaseq's trainer holds."""
    version = torch.tensor([3.0], dtype=next(iter(model.values())).dtype)
    history = {
        "criterion_name": "VocabParallelCrossEntropyCriterion",
        "optimizer_name": "MetaseqAdam",
        "lr_scheduler_state": {"best": None},
        "num_updates": 7,
    }
    return {
        "cfg": {
            "common": {"fp16": True},
            "distributed_training": {"use_sharded_state": True},
            "task": {"_name": "streaming_language_modeling"},
            "model": named,
        },
        "model": {**model, "decoder.version": version},
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"metrics": {}, "previous_training_time": 1.0, "ewm_loss": None,
                        "train_iterator": {"epoch": 1}},
        **entries,
    }  # fmt: skip


def write_set(
    folder: Path,
    whole: Weights,
    num_parts: int = 1,
    num_shards: int = 1,
    with_moments: Optional[tuple[Weights, Weights]] = None,
    kind: str = "pre-norm",
    stem: str = "reshard",
    fused: bool = True,
    one_root: bool = False,
) -> list[Path]:
    """Write a checkpoint of metaseq's; its files by model part, then shard."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = [model_parts(w, num_parts, fused) for w in (whole, *(with_moments or ()))]
    paths = []
    described: list[dict[str, Any]]
    for part in range(num_parts):
        if num_shards == 1:
            models, described = [cut[0][part]], []
            flat_moments = [[weights[part]] for weights in cut[1:]]
        else:
            models, described = flatten(cut[0][part], num_shards, one_root)
            flat_moments = [flatten(w[part], num_shards, one_root)[0] for w in cut[1:]]
        for rank, model in enumerate(models):
            held = state(model, settings(kind, model_parallel_size=num_parts))
            if described:
                held["shard_metadata"] = described[rank]
            if with_moments is not None:
                means, squares = (m[rank] for m in flat_moments)
                pairs = list(zip(means.values(), squares.values()))
                held["last_optimizer_state"] = optimizer_state(pairs)
            suffix = f"-model_part-{part}" if num_parts > 1 or num_shards > 1 else ""
            suffix += f"-shard{rank}" if num_shards > 1 else ""
            paths.append(folder / f"{stem}{suffix}.pt")
            torch.save(held, paths[-1])
    return paths
