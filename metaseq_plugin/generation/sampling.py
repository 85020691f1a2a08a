"""One token per row from logits, by uniform numbers: the arithmetic, without any state.

Legend: R rows (one continuation each), V vocabulary, N tokens looked at, B tokens of a block.

A row uses one uniform number per token: the token at which its cumulative probability passes that
number. The numbers of a row come from a counter-based generator keyed by seed, prompt and number of
the sample, so that they are the same whatever else is in the batch, and a longer maximum only
appends to them. How a row is chosen for depends on its own logits alone, to the last bit.
"""

import hashlib
from collections import Counter
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

# Where only top-p truncates, the CPU looks at so many of the likeliest tokens before it sorts all:
# at V = 50,272 a full sort takes many times as long as the softmax and the choice together.
LOOKS = (64, 256, 1024)
# A cumulative sum in fp64 over the vocabulary takes longer than all the rest, so it is over blocks.
BLOCK = 128


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


def enough_for(wanted: int, vocab_size: int) -> int:
    """How many of the likeliest tokens to look at where ``wanted`` of them are needed."""
    return next((look for look in LOOKS if wanted <= look < vocab_size), vocab_size)


def first_beyond(reached: Tensor, threshold: Tensor) -> Tensor:
    """The first column of rising ``reached`` (R, N) that is more than ``threshold`` (R, 1), (R, 1).

    Never a column at which ``reached`` does not rise, even where rounding puts the threshold outside.
    Of NaN, the last column: an index beyond it would end the process on an accelerator.
    """
    highest = torch.nextafter(reached[:, -1:], torch.zeros_like(threshold))
    threshold = threshold.clamp(min=0).minimum(highest)
    columns = torch.searchsorted(reached, threshold, right=True)
    return columns.clamp_(max=reached.size(-1) - 1)


def sample_all(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row of softmax(logits), (R,): the block, then the token in it.

    Args:
        logits: (R, V) fp32.
        uniforms: (R,) in [0, 1).
    """
    weights = logits.softmax(-1)
    vocab_size = weights.size(-1)
    whole = vocab_size // BLOCK * BLOCK
    sums = weights[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1)
    sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], 1).double()  # (R, blocks)
    reached = sums.cumsum(-1)
    threshold = uniforms.double()[:, None] * reached[:, -1:]  # (R, 1)
    block = first_beyond(reached, threshold)  # (R, 1)
    before = reached.gather(1, block) - sums.gather(1, block)
    tokens = block * BLOCK + torch.arange(BLOCK, device=logits.device)  # (R, B)
    inside = weights.gather(1, tokens.clamp(max=vocab_size - 1)).double()
    inside = inside.masked_fill_(tokens >= vocab_size, 0.0).cumsum(-1)
    return tokens.gather(1, first_beyond(inside, threshold - before))[:, 0].clamp_(
        max=vocab_size - 1
    )


def sample_likeliest(
    logits: Tensor, uniforms: Tensor, top_k: Tensor, top_p: Tensor, look: int, is_sure: bool
) -> Tensor:
    """One token per row from what top-k and then top-p leave of softmax(logits), (R,).

    Args:
        logits: (R, V) fp32.
        uniforms: (R,) in [0, 1).
        top_k: (R,); V or more are all tokens.
        top_p: (R,) fp64.
        look: how many tokens to look at.
        is_sure: whether no row needs more; else those that do are looked at again, and what an
            accelerator has found is waited for.
    """
    kept, ids, is_enough = truncate(logits, top_k, top_p, look, is_sure)
    reached = kept.cumsum(-1)
    columns = first_beyond(reached, uniforms.double()[:, None] * reached[:, -1:])
    tokens = ids.gather(1, columns)[:, 0]
    if is_sure or bool(is_enough.all()):
        return tokens
    again = (~is_enough).nonzero()[:, 0]
    wider = enough_for(look + 1, logits.size(-1))
    tokens[again] = sample_likeliest(
        logits[again],
        uniforms[again],
        top_k[again],
        top_p[again],
        wider,
        wider == logits.size(-1),
    )
    return tokens


def truncate(
    logits: Tensor, top_k: Tensor, top_p: Tensor, look: int, is_sure: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights that survive, falling, others 0, and their tokens, both (R, N = ``look``).

    Top-k first; top-p then keeps the fewest likeliest tokens whose share of what top-k left reaches
    it, and always the first. Third, (R,): whether no token beyond the N likeliest survives.
    """
    is_all = look >= logits.size(-1)
    values, ids = logits.sort(-1, descending=True) if is_all else logits.topk(look)
    most = values[:, :1]
    places = torch.arange(look, device=logits.device)
    weights = (values - most).double().exp().masked_fill_(places >= top_k[:, None], 0.0)
    reached = weights.cumsum(-1)
    total = reached[:, -1:]
    if not is_sure:
        everything = (logits.logsumexp(-1, keepdim=True) - most).double().exp()
        total = torch.where(top_k[:, None] <= look, total, everything)
    needed = reached - weights < top_p[:, None] * total
    needed[:, 0] = True
    return weights.masked_fill_(~needed, 0.0), ids, (reached >= top_p[:, None] * total)[:, -1]
