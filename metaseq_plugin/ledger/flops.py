"""Floating-point operations of a token: what the model asks for, and what the hardware does.

    model_flops(SIZES["175b"]).training      # 1.076e12 a token: 6N + 12·L·D·T

Legend as in ``opt.py``: L layers, D model dim, F feed-forward dim, E word-embedding dim (D but in the 350M), V
vocabulary, T tokens of a sample. A multiplication with its addition counts as two operations.

N counts the weights that every token is multiplied with:

    a layer             q, k, v, out: 4·D²          fc1, fc2: 2·D·F
    the head            V·E, the tied embedding as output projection; and 2·D·E where E is not D

The rows that the embeddings look up multiply nothing, so that tokens count once, as the head, and positions never;
biases, norms and softmax are left out, as everywhere. Attention multiplies each token with T others, twice:

    forward             2N + 4·L·D·T                attention as a full square: PaLM's convention
                        2N + 2·L·D·T                causal: only the half that a mask leaves
    training            three times as much: backward takes two products for each one of forward
    recomputation       forward of the layers once more (--checkpoint-activations), or of --checkpoint-layers of them;
                        the head is not recomputed, and --recompute selective computes no product again

6N + 12·L·D·T: Chowdhery et al. 2022 (PaLM, arXiv:2204.02311), appendix B. "Model" FLOPs leave recomputation out and
"hardware" FLOPs have it; MFU and HFU are their rates over the peak. With F = 4D and E = D the hardware FLOPs of full
recomputation are equation (3) of Narayanan et al. 2021 (arXiv:2104.04473), ``megatron_flops``.
"""

from typing import Any, Mapping, NamedTuple

from metaseq_plugin.sizes import MAX_POSITIONS, OPTSize

VOCAB_SIZE = 50_272  # OPT's dictionary, filled up to a multiple of 8
BACKWARD = 2  # products of backward for each of forward: one for the input's gradient, one for the weight's


class Flops(NamedTuple):
    """Operations of one token's forward pass, by what they are for.

    Attributes:
        layers: weights of the layers.
        attention: scores and sums of values, by the convention that was asked for.
        head: the output projection, and the 350M's projections.
        not_again: of the layers' weights, what recomputation stops before. Without dropout nothing needs
            the product of ``fc2`` again, and PyTorch leaves it out where no norm comes after it.
    """

    layers: float
    attention: float
    head: float
    not_again: float = 0.0

    @property
    def forward(self) -> float:
        return self.layers + self.attention + self.head

    @property
    def training(self) -> float:
        """Model FLOPs: forward and backward."""
        return (1 + BACKWARD) * self.forward

    @property
    def recomputed(self) -> float:
        """What --checkpoint-activations adds, of all layers."""
        return self.layers + self.attention - self.not_again

    def hardware(self, recomputed_share: float) -> float:
        """Hardware FLOPs: what is computed in training, if it runs that share of the layers again."""
        return self.training + recomputed_share * self.recomputed


def recomputed_share(model: Mapping[str, Any], layers: int) -> float:
    """Which share of ``layers`` a run of these options of a model runs again; older runs have not all of them."""
    if not model["checkpoint_activations"] or model.get("recompute") == "selective":
        return 0.0
    return (model.get("checkpoint_layers") or layers) / layers


def multiplied_weights(size: OPTSize, vocab_size: int = VOCAB_SIZE) -> int:
    """N: the weights that every token is multiplied with, biases and norms left out."""
    return layer_weights(size) + head_weights(size, vocab_size)


def layer_weights(size: OPTSize) -> int:
    """Of all layers: L·(4·D² + 2·D·F)."""
    return size.layers * (4 * size.embed_dim**2 + 2 * size.embed_dim * size.ffn_embed_dim)


def head_weights(size: OPTSize, vocab_size: int = VOCAB_SIZE) -> int:
    """V·E, and 2·D·E for ``project_in`` and ``project_out`` where E is not D."""
    word_dim = size.word_embed_dim or size.embed_dim
    projections = 0 if word_dim == size.embed_dim else 2 * size.embed_dim * word_dim
    return vocab_size * word_dim + projections


def model_flops(
    size: OPTSize,
    tokens_per_sample: int = MAX_POSITIONS,
    vocab_size: int = VOCAB_SIZE,
    causal: bool = False,
    dropout: float = 0.1,
) -> Flops:
    """FLOPs a token of a sample of ``tokens_per_sample``.

    Args:
        causal: count half of attention, which a kernel that skips masked scores computes.
        dropout: OPT's, or what --dropout says; only 0 makes a difference.
    """
    attention = 4.0 * size.layers * size.embed_dim * tokens_per_sample
    stops_before_fc2 = dropout == 0.0 and not size.post_norm
    fc2 = 2.0 * size.layers * size.embed_dim * size.ffn_embed_dim
    return Flops(
        layers=2.0 * layer_weights(size),
        attention=attention / 2 if causal else attention,
        head=2.0 * head_weights(size, vocab_size),
        not_again=fc2 if stops_before_fc2 else 0.0,
    )


def megatron_flops(
    layers: int, hidden: int, sequence: int, vocab_size: int, tokens: float = 1.0
) -> float:
    """Hardware FLOPs of ``tokens``, by Megatron-LM's formula: 96·B·s·l·h²·(1 + s/6h + V/16·l·h).

    Four passes (forward, its recomputation, two of backward) of 24·l·h²·(1 + s/6h), and three of the head's
    2·h·V. Narayanan et al. 2021 (arXiv:2104.04473), section 5.1, equation (3). OPT's 4.30e23 FLOPs and
    147 TFLOP/s are by this formula (metaseq's chronicles/final_update.md; arXiv:2205.01068, section 2.4).
    """
    share = 1 + sequence / (6 * hidden) + vocab_size / (16 * layers * hidden)
    return 96.0 * tokens * layers * hidden**2 * share
