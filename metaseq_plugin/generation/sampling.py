"""Choosing the next token from logits, reproducibly and independently of the rest of the batch.

Legend: R rows (one continuation each), V vocabulary, N tokens looked at.

A row uses one uniform number per token: the token at which its cumulative probability passes that
number. The numbers of a row come from a counter-based generator keyed by seed, prompt and number of
the sample, so that they are the same whatever else is in the batch, and a longer maximum only
appends to them.
"""

import hashlib
from collections import Counter
from typing import NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from metaseq_plugin.generation.settings import Settings

# Where only top-p truncates, the CPU looks at so many of the likeliest tokens before it sorts all:
# at V = 50,272 a full sort takes several times as long as the softmax and the choice together.
FIRST_LOOK = 1024


class Rule(NamedTuple):
    """How a token is taken; rows of equal rules are chosen for together."""

    blocked: tuple[int, ...]  # tokens that must not be taken
    temperature: float  # 0: the likeliest is taken
    top_k: int
    top_p: float
    with_scores: bool

    @classmethod
    def of(cls, settings: Settings, blocked: tuple[int, ...]) -> "Rule":
        if settings.is_greedy:
            return cls(blocked, 0.0, 0, 1.0, settings.with_scores)
        return cls(
            blocked, settings.temperature, settings.top_k, settings.top_p, settings.with_scores
        )


def count_repeats(prompts: Sequence[Sequence[int]]) -> list[int]:
    """For each prompt, how many of those before it are the same."""
    seen: Counter[tuple[int, ...]] = Counter()
    repeats = []
    for prompt in map(tuple, prompts):
        repeats.append(seen[prompt])
        seen[prompt] += 1
    return repeats


def uniform_numbers(
    seed: int, prompt: Sequence[int], repeat: int, num_samples: int, length: int
) -> Tensor:
    """Numbers in [0, 1) for every sample of a prompt, (num_samples, length).

    Args:
        repeat: as ``count_repeats``; a prompt given again gets further samples, not the same ones.
    """
    table = np.empty((num_samples, length), dtype=np.float32)
    for sample, row in enumerate(table):
        name = f"{seed} {repeat * num_samples + sample} {list(prompt)}"
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
        np.random.Generator(np.random.Philox(key=key)).random(dtype=np.float32, out=row)
    return torch.from_numpy(table)


def choose(logits: Tensor, rule: Rule, uniforms: Optional[Tensor]) -> tuple[Tensor, Tensor]:
    """Take one token per row.

    Args:
        logits: (R, V) fp32; overwritten.
        uniforms: (R,) in [0, 1); not looked at where the rule is greedy.

    Returns:
        The tokens, (R,), and their scores, (R,): natural log-probabilities under
        softmax(logits / temperature) before anything is blocked or truncated (for the likeliest
        token: under softmax(logits)). Where they are not asked for, the logits themselves, or how far
        they are below the largest. All are NaN or infinite where a logit is NaN or +inf, and the token
        is then any.
    """
    if rule.temperature not in (0, 1):
        logits = logits.div_(rule.temperature)
    if rule.with_scores:
        normalizer = logits.logsumexp(-1)  # (R,)
    elif rule.temperature > 0:
        normalizer = logits.amax(-1)
    else:
        normalizer = logits.new_zeros(len(logits))  # the likeliest logit is seen anyway
    for token in rule.blocked:  # one by one: a list would have to be copied to an accelerator
        logits[:, token] = -torch.inf
    if rule.temperature == 0:
        best, tokens = logits.max(-1)  # (R,), (R,)
        return tokens, best - normalizer
    assert uniforms is not None
    tokens = sample(logits, uniforms, rule.top_k, rule.top_p)
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - normalizer


def sample(logits: Tensor, uniforms: Tensor, top_k: int, top_p: float) -> Tensor:
    """One token per row of (R, V) from what top-k and then top-p leave of softmax(logits), (R,)."""
    if top_k == 0 and top_p >= 1:
        return invert(logits.softmax(-1), uniforms)
    kept, ids = truncate(logits, top_k, top_p)
    return ids.gather(1, invert(kept, uniforms)[:, None])[:, 0]


def invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The column at which each row's cumulative share passes its uniform number, (R,).

    Never a column of weight 0: the cumulative sum does not move there. Of NaN, the last column: an
    index beyond it would end the process on an accelerator.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)  # fp32 would lose tokens of 1e-7
    threshold = uniforms.double()[:, None] * cumulative[:, -1:]
    columns = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return columns.clamp_(max=weights.size(-1) - 1)


def truncate(logits: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities that survive, falling, others 0, and their tokens, both (R, ≤ V).

    Top-k first; top-p then keeps the fewest likeliest tokens whose share of what top-k left reaches
    ``top_p``, and always the first.
    """
    vocab_size = logits.size(-1)
    size = min(top_k, vocab_size) or vocab_size
    if top_k == 0 and logits.device.type == "cpu" and vocab_size > FIRST_LOOK:
        normalizer = logits.logsumexp(-1, keepdim=True)
        values, ids = logits.topk(FIRST_LOOK)
        probs = (values - normalizer).exp().double()
        if bool((probs.sum(-1) >= top_p).all()):
            return keep_nucleus(probs, top_p), ids
    values, ids = logits.topk(size) if size < vocab_size else logits.sort(descending=True)
    return keep_nucleus(values.double().softmax(-1), top_p), ids


def keep_nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Falling probabilities (R, N) with all set to 0 that are not needed to reach ``top_p``."""
    before = probs.cumsum(-1) - probs  # what the likelier ones reach
    needed = before < top_p
    needed[:, 0] = True
    return probs.masked_fill(~needed, 0.0)
