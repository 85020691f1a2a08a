"""Where each token stands and what it may attend to: padding, tokens seen before, documents.

B batch, T new tokens, S all tokens so far (T without a cache).

``--document-attention`` keeps documents that share a row apart. fairseq's input is its target one
token earlier, so the ``</s>`` that ends a document as a target begins the next one as an input, as
it begins every prompt. A document is therefore read from its leading ``</s>`` to the token before
the next one: nothing in it attends to what stands before, and its positions count from that
``</s>``. Each document is then computed as if it had a row of its own.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.modules.kv_cache import KVCache

# Position p (from 0) of the non-padding tokens uses row p + 2; rows 0 and 1 belong to <s> and <pad>,
# which is how fairseq's learned positions count. Hugging Face calls it the offset.
POSITION_OFFSET = 2


def positions_and_mask(
    tokens: Tensor,
    padding_idx: int,
    longest: int,
    cache: Optional[KVCache] = None,
    separator: Optional[int] = None,
) -> Tuple[Tensor, Optional[Tensor]]:
    """Rows of the position table, (B, T), and the attention mask where causality is not enough.

    Args:
        tokens: (B, T) ids; padding may stand anywhere. With ``cache``, only the new tokens.
        longest: how many positions the table has.
        separator: the token that begins a document; None: a row is one document, as it is with
            ``cache``, which serves prompts.

    Raises:
        UserError: more tokens than ``longest`` in a document.
    """
    num_new = tokens.size(1)
    is_pad = tokens.eq(padding_idx)  # (B, T)
    if cache is None:
        so_far = is_pad
        # Padding on the right is behind every query that counts: no mask, the fast kernels.
        needs_mask = is_pad[:, :-1] & ~is_pad[:, 1:]  # (B, T - 1)
    else:
        so_far = cache.observe(is_pad)  # (B, S)
        needs_mask = None
    nth = (~so_far).cumsum(1)[:, -num_new:]  # (B, T), from 1
    document = None
    if separator is not None and needs_mask is not None:
        begins = tokens.eq(separator)  # (B, T)
        needs_mask = needs_mask | (begins & (nth > 1))[:, 1:]
        document = begins.cumsum(1)  # (B, T)
        # How many tokens went by before the latest </s>.
        nth = nth - (nth - 1).masked_fill(~begins, 0).cummax(1).values
    if so_far.size(1) > longest:
        found = int(nth.max())
        if found > longest:
            raise UserError(
                f"The input must have at most {longest} tokens "
                f"(`--decoder-max-positions`), but has {found}. Shorten it."
            )
    positions = (nth + (POSITION_OFFSET - 1)).masked_fill(is_pad, padding_idx)
    if needs_mask is not None:
        is_masked = bool(needs_mask.any())
    else:
        assert cache is not None
        is_masked = cache.has_pad or (num_new > 1 and cache.length > 0)
    return positions, attention_mask(so_far, num_new, document) if is_masked else None


def attention_mask(is_pad: Tensor, num_queries: int, document: Optional[Tensor] = None) -> Tensor:
    """Which keys each of the last ``num_queries`` positions may see, where plain causality is not enough.

    Args:
        is_pad: (B, S) bool, padding among all positions so far.
        document: (B, S) the number of each position's document, which sees no other; then T = S.

    Returns:
        (B, 1, T, S) bool, True = may attend: causal, and never to padding. A padding position sees
        itself, so that no row is empty (softmax of an empty row is NaN).
    """
    num_keys = is_pad.size(1)
    query = torch.arange(num_keys - num_queries, num_keys, device=is_pad.device)[:, None]  # (T, 1)
    key = torch.arange(num_keys, device=is_pad.device)[None, :]  # (1, S)
    visible = (key <= query) & ~is_pad[:, None, None, :]  # (B, 1, T, S)
    if document is not None:
        visible &= document[:, None, :, None] == document[:, None, None, :]
    return visible | (key == query)
