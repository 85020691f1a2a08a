"""One update of a language model, by three code bases: what ``train_step.py`` lets take turns.

B batch, T tokens. ``ours`` and ``fairseq`` go through fairseq's stock ``Trainer.train_step``, set up by
its own parser; ``hugging face`` is OPTForCausalLM with its loss through ``labels`` and
``torch.optim.AdamW`` at its defaults. All clip the gradient's norm at 1.0 and see the same tokens.

16 bits: ours and fairseq keep fp32 master weights beside a 16-bit model (``--bf16``), Hugging Face
computes an fp32 model under autocast; with --memory-efficient all three keep 16-bit weights only.
"""

import argparse
import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any, Dict, List

import torch
from fairseq import options as fairseq_options
from fairseq import tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from torch import Tensor
from transformers import OPTConfig as HuggingFaceConfig
from transformers import OPTForCausalLM

import metaseq_plugin  # noqa: F401 (registers our components)
from benchmarks.turns import Round
from metaseq_plugin.models.opt import SIZES
from metaseq_plugin.modules.linear import HAS_ONEDNN

OURS, HUGGING_FACE, FAIRSEQ, PRODUCTS = "ours", "hugging face", "fairseq", "matrix product"
VOCAB, SPECIALS = 50_272, 4
PRODUCT_SIZE = {"cpu": 2_048, "cuda": 8_192}  # rows = columns of the product that is the ceiling
LR = "1e-4"
BATCHES = 8


def prepare(name: str, options: argparse.Namespace) -> Round:
    """One update of contender ``name``; the batch changes from update to update."""
    torch.manual_seed(0)
    builders = {
        OURS: build_trainer,
        FAIRSEQ: build_trainer,
        HUGGING_FACE: build_hugging_face,
        PRODUCTS: build_product,
    }
    return builders[name](name, options)


def tokens_of(update: int, options: argparse.Namespace) -> Tensor:
    """(B, T + 1) token ids."""
    generator = torch.Generator().manual_seed(update)
    shape = (options.batch_size, options.tokens_per_sample + 1)
    return torch.randint(SPECIALS, VOCAB, shape, generator=generator)


def batches_of(options: argparse.Namespace) -> List[Tensor]:
    """A few of them, made before the clock runs; updates go through them again and again."""
    return [tokens_of(update, options) for update in range(BATCHES)]


def build_product(name: str, options: argparse.Namespace) -> Round:
    """On CPUs by oneDNN, whose product is the fastest there where it is built in; elsewhere by ``torch.mm``."""
    size = PRODUCT_SIZE[options.device]
    kind = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    a, b, out = (torch.randn(size, size, **kind) for _ in range(3))

    def product() -> None:
        torch.mm(a, b, out=out)

    def onednn_product() -> None:
        torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")

    return onednn_product if options.device == "cpu" and HAS_ONEDNN else product


def build_hugging_face(name: str, options: argparse.Namespace) -> Round:
    size = SIZES[options.arch.removeprefix("opt_")]
    config = HuggingFaceConfig(
        vocab_size=VOCAB,
        hidden_size=size.embed_dim,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        ffn_dim=4 * size.embed_dim,
        word_embed_proj_dim=size.word_embed_dim or size.embed_dim,
        do_layer_norm_before=not size.post_norm,
        dropout=options.dropout,
        attention_dropout=options.attention_dropout,
    )
    dtype = getattr(torch, options.dtype)
    is_autocast = dtype != torch.float32 and not options.memory_efficient
    model: Any = OPTForCausalLM(config)
    model.to(device=options.device, dtype=dtype if options.memory_efficient else torch.float32)
    if options.checkpoint_activations:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(LR))
    model.train()
    forward = torch.compile(model) if options.compile else model
    batches = cycle([tokens[:, :-1] for tokens in batches_of(options)])

    def update() -> None:
        tokens = next(batches).to(options.device)
        optimizer.zero_grad()
        with torch.autocast(options.device, dtype, enabled=is_autocast):
            loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()  # a training loop reports it

    return update


def trainer_arguments(name: str, data: Path, options: argparse.Namespace) -> List[str]:
    """The ``fairseq-train`` command line."""
    size = SIZES[options.arch.removeprefix("opt_")]
    arguments = [
        *(str(data), "--tokens-per-sample", str(options.tokens_per_sample)),
        *("--batch-size", str(options.batch_size), "--lr", LR, "--clip-norm", "1.0"),
        *("--dropout", str(options.dropout), "--attention-dropout", str(options.attention_dropout)),
        *("--weight-decay", "0.1", "--adam-betas", "(0.9, 0.95)"),
    ]
    if name == OURS:
        arguments += ["--task", "opt_language_modeling", "--arch", options.arch]
        arguments += ["--criterion", "chunked_cross_entropy", "--optimizer", "adamw"]
        arguments += ["--compile"] if options.compile else []
    else:
        assert size.word_embed_dim is None, f"transformer_lm cannot be an {options.arch}"
        arguments += ["--task", "language_modeling", "--arch", "transformer_lm"]
        arguments += ["--criterion", "cross_entropy", "--optimizer", "adam"]
        arguments += ["--decoder-layers", str(size.layers), "--decoder-learned-pos"]
        arguments += ["--decoder-embed-dim", str(size.embed_dim), "--activation-fn", "relu"]
        arguments += ["--decoder-ffn-embed-dim", str(4 * size.embed_dim)]
        arguments += ["--decoder-attention-heads", str(size.heads)]
        arguments += ["--share-decoder-input-output-embed", "--max-target-positions", "2048"]
    if options.device == "cpu":
        arguments.append("--cpu")
    if options.checkpoint_activations:
        arguments.append("--checkpoint-activations")
    if options.dtype != "float32":
        kind = {"bfloat16": "bf16", "float16": "fp16"}[options.dtype]
        arguments.append(f"--memory-efficient-{kind}" if options.memory_efficient else f"--{kind}")
    return arguments


def trainer_of(name: str, options: argparse.Namespace, *more: str) -> Trainer:
    """fairseq's trainer as ``fairseq-train`` would set it up, with ``more`` of its options."""
    with tempfile.TemporaryDirectory() as folder:
        words = "".join(f"w{number} 1\n" for number in range(VOCAB - SPECIALS))
        (Path(folder) / "dict.txt").write_text(words)
        args = fairseq_options.parse_args_and_arch(
            fairseq_options.get_training_parser(),
            [*trainer_arguments(name, Path(folder), options), *more],
        )
        args.tpu = False  # fairseq's parser takes --bf16 for a TPU run
        cfg = convert_namespace_to_omegaconf(args)
        task = tasks.setup_task(cfg.task)
    return Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))


def build_trainer(name: str, options: argparse.Namespace) -> Round:
    trainer = trainer_of(name, options)
    samples = cycle([sample_of(tokens) for tokens in batches_of(options)])

    def update() -> None:
        trainer.train_step([next(samples)])

    return update


def sample_of(tokens: Tensor) -> Dict[str, Any]:
    """What fairseq's language-modeling datasets collate, from (B, T + 1) tokens."""
    source, target = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()  # (B, T)
    return {
        "id": torch.arange(len(tokens)),
        "nsentences": len(tokens),
        "ntokens": target.numel(),
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.full((len(tokens),), source.size(1)),
        },
        "target": target,
    }
