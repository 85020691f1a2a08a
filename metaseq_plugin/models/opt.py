"""OPT (Zhang et al. 2022, arXiv:2205.01068): the decoder as the paper has it, in plain PyTorch.

    fairseq-train DATA --user-dir metaseq_plugin --task opt_language_modeling --arch opt_125m …

Legend: B batch, T tokens, D model dim, E word-embedding dim (= D except in
the 350M), H heads, K head dim (D = H·K), F feed-forward dim, V vocabulary. Everything inside is
batch-first (B, T, D); fairseq's own decoders are time-first.

Read it top to bottom: settings (the sizes stand in ``sizes.py``) → attention → layer → decoder → the fairseq model. Sharding
and parallelism are applied from outside; nothing here knows of them.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.models import (
    FairseqDecoder,
    FairseqLanguageModel,
    register_model,
    register_model_architecture,
)
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from torch import Tensor, nn

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.fit import check_finite, check_fits
from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.modules.attention import attention
from metaseq_plugin.modules.cached_attention import CachedAttention
from metaseq_plugin.modules.checkpointing import Checkpointing, Recompute, checkpointing_problems
from metaseq_plugin.modules.compile import compile_layers
from metaseq_plugin.modules.dropout import dropout
from metaseq_plugin.modules.half_weight import HalfWeight, held
from metaseq_plugin.modules.initial_weights import empty_embedding, fill_all
from metaseq_plugin.modules.joint_linear import JointLinear
from metaseq_plugin.modules.linear import Linear, linear, unpack_to_load
from metaseq_plugin.modules.positions import POSITION_OFFSET, positions_and_mask
from metaseq_plugin.modules.recomputation import LayerNorm
from metaseq_plugin.modules.vocab_shard import VocabShard
from metaseq_plugin.sizes import MAX_POSITIONS, SIZES, fill_size


@dataclass
class OPTConfig(FairseqDataclass):
    """Every dimension of the decoder; what is left out is the arch's, and of bare ``opt`` the 125M's."""

    decoder_layers: Optional[int] = field(
        default=None, metadata={"help": "number of decoder layers (default: the --arch's)"}
    )
    decoder_embed_dim: Optional[int] = field(
        default=None,
        metadata={"help": "model dimension D, a multiple of the heads (default: the --arch's)"},
    )
    decoder_attention_heads: Optional[int] = field(
        default=None, metadata={"help": "number of attention heads H (default: the --arch's)"}
    )
    decoder_ffn_embed_dim: Optional[int] = field(
        default=None,
        metadata={"help": "inner dimension F of the feed-forward block (default: 4·D)"},
    )
    decoder_word_embed_dim: Optional[int] = field(
        default=None,
        metadata={"help": "word-embedding dimension E where it is not D (OPT-350M: 512)"},
    )
    decoder_post_norm: Optional[bool] = field(
        default=None,
        metadata={"help": "normalise after each block and not at the end, as OPT-350M does"},
    )
    decoder_max_positions: int = field(
        default=MAX_POSITIONS, metadata={"help": "longest input in tokens; OPT's is 2048"}
    )
    dropout: float = field(
        default=0.1, metadata={"help": "probability of dropping a block's output element"}
    )
    attention_dropout: float = field(
        default=0.1, metadata={"help": "probability of dropping an attention weight"}
    )
    document_attention: bool = field(
        default=False,
        metadata={
            "help": "compute the documents of a block as if each had a row of its own: attention ends "
            "and positions restart at </s>"
        },
    )
    init_std: float = field(
        default=0.006,
        metadata={
            "help": "standard deviation of initial weights; blocks' outputs get 1/√(2·layers) of it"
        },
    )
    checkpoint_activations: bool = field(
        default=False,
        metadata={"help": "keep less of each layer for the backward pass, recompute the rest"},
    )
    checkpoint_layers: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --checkpoint-activations: of only so many layers, the first (default: all)"
        },
    )
    recompute: Recompute = field(
        default=Recompute.whole,
        metadata={
            "help": "with --checkpoint-activations: keep only a layer's input, or (selective) the results "
            "of products, attention and collectives too"
        },
    )
    offload_activations: bool = field(
        default=False,
        metadata={"help": "with --checkpoint-activations: keep those inputs in CPU memory"},
    )
    sequence_parallel: bool = field(
        default=False,
        metadata={
            "help": "with --model-parallel-size: cut activations between the cut blocks along tokens"
        },
    )
    compile: bool = field(
        default=False, metadata={"help": "run the layers through torch.compile while training"}
    )


def check_config(cfg: DictConfig) -> None:
    """Refuse what no decoder can be built from, all problems in one message."""
    problems = []
    for name in ("decoder_layers", "decoder_embed_dim", "decoder_attention_heads",
                 "decoder_ffn_embed_dim", "decoder_max_positions"):  # fmt: skip
        value = getattr(cfg, name)
        if value < 1:
            problems.append(f"`--{name.replace('_', '-')}` must be at least 1, but is {value}.")
    if not problems and cfg.decoder_embed_dim % cfg.decoder_attention_heads:
        dim = cfg.decoder_embed_dim
        fits = [dim // k for k in range(128, 31, -1) if dim % k == 0] or [1]
        problems.append(
            f"`--decoder-attention-heads` must divide `--decoder-embed-dim` ({dim}), but is "
            f"{cfg.decoder_attention_heads}. Set one of {', '.join(map(str, fits))}."
        )
    word_dim = cfg.decoder_word_embed_dim
    if word_dim is not None and word_dim < 1:
        problems.append(
            f"`--decoder-word-embed-dim` must be at least 1, but is {word_dim}. Leave it out for D."
        )
    for name in ("dropout", "attention_dropout"):
        value = getattr(cfg, name)
        if not 0 <= value < 1:
            problems.append(
                f"`--{name.replace('_', '-')}` must be in [0, 1), but is {value}. OPT's is 0.1."
            )
    if cfg.init_std <= 0:
        problems.append(f"`--init-std` must be positive, but is {cfg.init_std}. OPT's is 0.006.")
    problems += checkpointing_problems(cfg)
    if problems:
        raise UserError(*problems)


class OPTAttention(JointLinear):
    """Causal multi-head self-attention with biases everywhere."""

    together = ("q_proj", "k_proj", "v_proj")

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.q_proj = Linear(embed_dim, embed_dim)
        self.k_proj = Linear(embed_dim, embed_dim)
        self.v_proj = Linear(embed_dim, embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)

    def forward(
        self, x: Tensor, mask: Optional[Tensor], cache: Optional[CachedAttention], layer: int
    ) -> Tensor:
        """x (B, T, D) → (B, T, D).

        Args:
            mask: (B, 1, T, T), added to the scores; None: plain causality.
            cache: what attends instead, to tokens read before too.
        """
        # The number of heads is read off the projection's output: a tensor-parallel rank holds H/tp.
        split = (x.size(0), x.size(1), -1, self.head_dim)
        q, k, v = (y.view(split).transpose(1, 2) for y in self.products(x))  # (B, H, T, K) each
        if cache is not None:
            y = cache.attend(layer, q, k, v)  # (B, H, T, K)
        else:
            y = attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(y.transpose(1, 2).flatten(2))  # (B, T, D)


class OPTDecoderLayer(nn.Module):
    """Attention, then feed-forward, each with its LayerNorm, dropout and residual."""

    def __init__(self, cfg: DictConfig, layer: int) -> None:
        super().__init__()
        dim = cfg.decoder_embed_dim
        self.layer = layer
        self.post_norm = cfg.decoder_post_norm
        self.dropout = cfg.dropout
        self.self_attn = OPTAttention(dim, cfg.decoder_attention_heads, cfg.attention_dropout)
        self.self_attn_layer_norm = LayerNorm(dim)
        self.fc1 = Linear(dim, cfg.decoder_ffn_embed_dim)
        self.fc2 = Linear(cfg.decoder_ffn_embed_dim, dim)
        self.final_layer_norm = LayerNorm(dim)

    def forward(
        self, x: Tensor, mask: Optional[Tensor], cache: Optional[CachedAttention]
    ) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        if self.post_norm:
            x = self.self_attn_layer_norm(x + self.attend(x, mask, cache))
            return self.final_layer_norm(x + self.feed_forward(x))
        x = x + self.attend(self.self_attn_layer_norm(x), mask, cache)
        return x + self.feed_forward(self.final_layer_norm(x))

    def attend(self, x: Tensor, mask: Optional[Tensor], cache: Optional[CachedAttention]) -> Tensor:
        y = self.self_attn(x, mask, cache, self.layer)
        return dropout(y, self.dropout, self.training)

    def feed_forward(self, x: Tensor) -> Tensor:
        # Two-dimensional, because a linear layer's (B, T, F) is a view, and writing into a view in
        # place costs autograd a copy of it.
        y = F.relu(self.fc1(x.flatten(0, 1)), inplace=True)  # (B·T, F)
        y = self.fc2(y).view_as(x)  # (B, T, D)
        return dropout(y, self.dropout, self.training)


class OPTDecoder(FairseqDecoder):
    """Embeddings, layers and the tied output projection.

    Args:
        dictionary: its length is V, its padding symbol is skipped by positions and attention.
    """

    def __init__(self, cfg: DictConfig, dictionary: Dictionary) -> None:
        super().__init__(dictionary)
        dim = cfg.decoder_embed_dim
        word_dim = cfg.decoder_word_embed_dim or dim
        # Plain values: reading an omegaconf node costs microseconds, and these are read every step.
        self.init_std: float = cfg.init_std
        self.longest: int = cfg.decoder_max_positions
        self.checkpointing = Checkpointing(cfg)
        self.padding_idx: int = dictionary.pad()
        self.separator: Optional[int] = dictionary.eos() if cfg.document_attention else None
        self.embed_tokens = empty_embedding(len(dictionary), word_dim, self.padding_idx)
        self.embed_positions = empty_embedding(
            cfg.decoder_max_positions + POSITION_OFFSET, dim, self.padding_idx
        )
        self.head: Optional[HalfWeight] = None  # the token embedding again, to be multiplied only
        has_projections = word_dim != dim
        self.project_in_dim = Linear(word_dim, dim, bias=False) if has_projections else None
        self.project_out_dim = Linear(dim, word_dim, bias=False) if has_projections else None
        self.layers = nn.ModuleList(OPTDecoderLayer(cfg, i) for i in range(cfg.decoder_layers))
        self.layer_norm = None if cfg.decoder_post_norm else nn.LayerNorm(dim)
        if not self.embed_tokens.weight.is_meta:  # else whoever gives them memory gives them values
            self.reset_parameters()

    def reset_parameters(
        self, held: Optional[Mapping[str, Tuple[Tensor, Piece]]] = None, seed: Optional[int] = None
    ) -> None:
        """Give every weight its initial value, the same in any layout of ranks.

        Args:
            held: by the parameter's name, what this rank holds of it and which piece that is; all of
                every parameter where it is left out.
            seed: what the weights follow from, with their names; torch's seed by default.
        """
        if held is None:
            held = {name: (p, Piece.whole(p.shape)) for name, p in self.named_parameters()}
        seed = torch.initial_seed() if seed is None else seed
        fill_all(held, self.init_std, len(self.layers), self.padding_idx, seed)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        cache: Optional[CachedAttention] = None,
        features_only: bool = False,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Predict the token after each token.

        Args:
            src_tokens: (B, T) ids; padding may stand anywhere. With ``cache``, new tokens as it reads them.
            src_lengths: ignored; fairseq passes it.
            features_only: leave out the output projection.

        Returns:
            logits (B, T, V), or features (B, T, E); and an empty dict, as fairseq expects.

        Raises:
            UserError: more tokens in a row than ``--decoder-max-positions``.
        """
        x = self.extract_features(src_tokens, cache)
        return (x if features_only else self.output_layer(x)), {}

    def extract_features(
        self, src_tokens: Tensor, cache: Optional[CachedAttention] = None
    ) -> Tensor:
        """Token ids (B, T) → features (B, T, E), ready for ``output_layer``."""
        if cache is not None:
            positions, mask = cache.positions(src_tokens), None
        else:
            positions, mask = positions_and_mask(
                src_tokens, self.padding_idx, self.longest, self.separator
            )
        x = self.embed_tokens(src_tokens)  # (B, T, E)
        if self.project_in_dim is not None:
            x = self.project_in_dim(x)  # (B, T, D)
        x = x + self.embed_positions(positions)
        if mask is not None:
            # As numbers, once: of booleans each layer's attention would make its own, B·T·S numbers
            # that it keeps for the backward pass.
            mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill_(~mask, -torch.inf)
        for number, layer in enumerate(self.layers):
            if self.training:
                x = self.checkpointing.run(layer, number, x, mask, cache)
            else:
                x = layer(x, mask, cache)
        if cache is not None:
            cache.advance()
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x if self.project_out_dim is None else self.project_out_dim(x)  # (B, T, E)

    def output_layer(self, features: Tensor, **kwargs: Any) -> Tensor:
        """Features (…, E) → logits (…, V), through the token embedding itself."""
        return linear(features, self.embed_tokens.weight if self.head is None else self.head)

    def pack_(self) -> None:
        """Read the token embedding in 16 bits for the logits, where these hold it exactly: see ``half_weight.py``."""
        weight = self.embed_tokens.weight
        if self.head is None and weight.device.type == "cpu":
            self.head = held(weight)
            if self.head is not None:
                self.register_load_state_dict_pre_hook(unpack_to_load)

    def _apply(self, fn: Any, recurse: bool = True) -> "OPTDecoder":
        """``to``, ``half`` and the like: what was packed before is not of the new kind."""
        self.head = None
        super()._apply(fn, recurse)
        return self

    def max_positions(self) -> int:
        """Longest input in tokens; fairseq's iterators and generators ask for it."""
        return self.longest


@register_model("opt", dataclass=OPTConfig)
class OPTLanguageModel(FairseqLanguageModel):
    """The decoder as fairseq holds a language model."""

    decoder: OPTDecoder
    vocab_shard: Optional[VocabShard] = None  # which rows ``output_weight`` is; None: all of them

    @classmethod
    def build_model(cls, cfg: OPTConfig, task: Any) -> "OPTLanguageModel":
        """Complete and check ``cfg``, and build for ``task``'s dictionary."""
        fill_size(cfg, cfg._name or "opt")
        check_config(cfg)
        model = cls(OPTDecoder(cfg, task.source_dictionary))
        if cfg.compile:
            compile_layers(model.decoder.layers)
        return model

    @property
    def output_weight(self) -> Tensor:
        """The tied embedding, (V, E): criterions project features with it themselves."""
        return self.decoder.embed_tokens.weight

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        model_cfg: Optional[DictConfig] = None,
        args: Optional[Any] = None,
    ) -> Any:
        """As fairseq's, but what is of another model, or no number, is refused by its tensor's name."""
        check_fits(self.state_dict(), state_dict, strict)
        check_finite(state_dict)
        return super().load_state_dict(state_dict, strict, model_cfg, args)


def _register_arch(arch: str) -> None:
    @register_model_architecture("opt", arch)
    def fill(args: Any) -> None:
        fill_size(args, arch)

    node = OPTConfig()
    node._name = arch
    ConfigStore.instance().store(name=arch, group="model", node=node, provider="metaseq_plugin")


for _name in SIZES:
    _register_arch(f"opt_{_name}")
