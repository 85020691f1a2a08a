"""Sizes, initial weights, and architecture names through fairseq's own parser."""

import hashlib
import math
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import build_model

from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.models.opt import SIZES, OPTDecoder
from metaseq_plugin.modules import initial_weights
from metaseq_plugin.modules.initial_weights import Matrix, fill_normal
from tests.opt_models import KINDS, PAD, config, dictionary, hf_config

# V = 50,272 and 2,050 position rows. The released 350M's is transformers'; metaseq's table has
# 355,889,152 for it, which is a 350M built like its siblings and was never released.
PARAMETERS = {
    "8m": 7_490_560,
    "125m": 125_239_296,
    "350m": 331_196_416,
    "760m": 760_326_144,
    "1.3b": 1_315_758_080,
    "2.7b": 2_651_596_800,
    "6.7b": 6_658_473_984,
    "13b": 12_853_473_280,
    "30b": 29_974_540_288,
    "66b": 65_719_701_504,
    "175b": 174_604_468_224,
}
OPT_VOCAB_SIZE = 50_272


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_those_released(name: str) -> None:
    from transformers import OPTForCausalLM

    cfg = config(f"opt_{name}")
    with torch.device("meta"):
        ours = OPTDecoder(cfg, dictionary(OPT_VOCAB_SIZE))
        theirs = OPTForCausalLM(hf_config(ours, cfg))
    assert count(ours) == PARAMETERS[name]
    assert count(theirs) == PARAMETERS[name]


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights(kind: str) -> None:
    torch.manual_seed(0)
    std, layers = 0.006, 8
    shape = {**KINDS[kind], "decoder_layers": layers, "decoder_embed_dim": 128}
    model = OPTDecoder(config(**{**shape, "decoder_ffn_embed_dim": 512}), dictionary(400))
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if "layer_norm" in name:
            assert (values == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (values == 0).all(), name
        else:
            if "embed" in name:
                assert (values[PAD] == 0).all(), name
                values = torch.cat([values[:PAD], values[PAD + 1 :]])
            is_output = name.endswith(("out_proj.weight", "fc2.weight"))
            expected = std / math.sqrt(2 * layers) if is_output else std
            error = 4 / math.sqrt(2 * values.numel())  # four standard errors of a deviation
            assert values.std().item() == pytest.approx(expected, rel=error), name
            assert abs(values.mean().item()) < 4 * expected / math.sqrt(values.numel()), name


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_embeddings_draw_nothing_of_their_own(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    def draw(self: torch.nn.Embedding) -> None:
        raise AssertionError(
            "on the meta device torch imports its compiler for this, for two seconds"
        )

    monkeypatch.setattr(torch.nn.Embedding, "reset_parameters", draw)
    with torch.device(device):
        model = OPTDecoder(config(**KINDS["pre-norm"]), dictionary(40))
    for table, num_rows in ((model.embed_tokens, 40), (model.embed_positions, 42)):
        assert table.weight.shape == (num_rows, 32)
        assert (table.padding_idx, table.weight.requires_grad) == (PAD, True)
        assert table.weight.device.type == device


def as_defined(seed: int, name: str, shape: tuple[int, int], std: float) -> torch.Tensor:
    """The whole matrix ``name``, block after block, as modules/initial_weights.py defines its values."""
    blocks = []
    step = max(1, 262_144 // shape[1])
    for number, row in enumerate(range(0, shape[0], step)):
        digest = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        rows = min(step, shape[0] - row)
        blocks.append(generator.standard_normal((rows, shape[1]), dtype=np.float32))
    return torch.from_numpy(np.concatenate(blocks)) * std


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_initial_weights_are_those_of_their_names_whoever_draws_and_holds_them(
    threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initial_weights, "num_threads", lambda: threads)
    shape = (1_300, 600)
    pieces = {
        "whole": Piece.whole(shape),
        "rows": Piece.whole(shape).narrow(0, 430, 800),
        "columns": Piece.whole(shape).narrow(1, 7, 290),
        "box": Piece.whole(shape).narrow(0, 437, 1).narrow(1, 599, 1),
        "nothing": Piece.whole(shape).narrow(0, 1_300, 0),
    }
    held = {name: torch.full(piece.size, torch.nan, dtype=dtype) for name, piece in pieces.items()}
    fill = [Matrix(name, held[name], piece, 0.02) for name, piece in pieces.items()]
    fill_normal(fill, seed=3)
    for name, piece in pieces.items():
        expected = as_defined(3, name, shape, 0.02)[piece.slices].to(dtype)
        assert torch.equal(held[name], expected), name


def test_threads_are_this_ranks_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    for ranks, share in (("", 16), ("4", 4), ("64", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert initial_weights.num_threads() == share


def test_output_is_tied_to_the_embedding() -> None:
    model = OPTDecoder(config(**KINDS["350m"]), dictionary())
    features = torch.randn(3, 16)
    expected = features @ model.embed_tokens.weight.T
    torch.testing.assert_close(model.output_layer(features), expected)
    assert not [name for name in model.state_dict() if "output" in name or "lm_head" in name]


def parse(*arguments: str) -> tuple[Any, OPTDecoder]:
    """cfg.model and the model that ``fairseq-train ⟨arguments⟩`` would make, on the meta device."""
    required = ["data", "--task", "opt_language_modeling", *arguments]
    args = options.parse_args_and_arch(options.get_training_parser(), required)
    cfg = convert_namespace_to_omegaconf(args).model
    with torch.device("meta"):
        model = build_model(cfg, SimpleNamespace(source_dictionary=dictionary()))
    return cfg, model.decoder


@pytest.mark.parametrize("name", SIZES)
def test_arch_names_the_size(name: str) -> None:
    cfg, model = parse("--arch", f"opt_{name}")
    size = SIZES[name]
    assert len(model.layers) == cfg.decoder_layers == size.layers
    first: Any = model.layers[0]
    assert first.fc1.weight.shape == (4 * size.embed_dim, size.embed_dim)
    assert first.self_attn.head_dim * size.heads == size.embed_dim
    assert (model.layer_norm is None) == size.post_norm
    assert model.embed_tokens.weight.size(1) == (size.word_embed_dim or size.embed_dim)


@pytest.mark.parametrize("arch", ["opt", "opt_125m", "opt_350m", "opt_175b"])
def test_typed_options_win_over_the_arch(arch: str) -> None:
    cfg, model = parse(
        "--arch", arch, "--decoder-layers", "2", "--decoder-embed-dim", "24",
        "--decoder-attention-heads", "3", "--decoder-ffn-embed-dim", "7",
        "--decoder-word-embed-dim", "6", "--decoder-max-positions", "11", "--dropout", "0.4",
        "--attention-dropout", "0.5",
    )  # fmt: skip
    first: Any = model.layers[0]
    assert len(model.layers) == 2
    assert first.fc1.weight.shape == (7, 24)
    assert first.self_attn.head_dim == 8
    assert first.dropout == 0.4
    assert first.self_attn.dropout == 0.5
    assert model.embed_tokens.weight.shape[1] == 6
    assert model.embed_positions.weight.shape == (13, 24)
    assert (cfg.decoder_layers, cfg.decoder_embed_dim) == (2, 24)  # what a checkpoint will say


def test_bare_opt_is_the_125m_and_can_be_post_norm() -> None:
    assert count(parse("--arch", "opt")[1]) == count(parse("--arch", "opt_125m")[1])
    assert parse("--arch", "opt", "--decoder-post-norm")[1].layer_norm is None
