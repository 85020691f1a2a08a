"""Where each token stands and what it may attend to: padding, documents.

B batch, T tokens. Tokens that are read into a cache know their places: see ``cached_attention.py``.

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

# Position p (from 0) of the non-padding tokens uses row p + 2; rows 0 and 1 belong to <s> and <pad>,
# which is how fairseq's learned positions count. Hugging Face calls it the offset.
POSITION_OFFSET = 2


def positions_and_mask(
    tokens: Tensor,
    padding_idx: int,
    longest: int,
    separator: Optional[int] = None,
) -> Tuple[Tensor, Optional[Tensor]]:
    """Rows of the position table, (B, T), and the attention mask where causality is not enough.

    Args:
        tokens: (B, T) ids; padding may stand anywhere.
        longest: how many positions the table has.
        separator: the token that begins a document; None: a row is one document.

    Raises:
        UserError: more tokens than ``longest`` in a document.
    """
    is_pad = tokens.eq(padding_idx)  # (B, T)
    # Padding on the right is behind every query that counts: no mask, the fast kernels.
    needs_mask = is_pad[:, :-1] & ~is_pad[:, 1:]  # (B, T - 1)
    nth = (~is_pad).cumsum(1)  # (B, T), from 1
    document = None
    if separator is not None:
        begins = tokens.eq(separator)  # (B, T)
        needs_mask = needs_mask | (begins & (nth > 1))[:, 1:]
        document = begins.cumsum(1)  # (B, T)
        # How many tokens went by before the latest </s>.
        nth = nth - (nth - 1).masked_fill(~begins, 0).cummax(1).values
    if tokens.size(1) > longest:
        found = int(nth.max())
        if found > longest:
            raise UserError(
                f"The input must have at most {longest} tokens "
                f"(`--decoder-max-positions`), but has {found}. Shorten it."
            )
    positions = (nth + (POSITION_OFFSET - 1)).masked_fill(is_pad, padding_idx)
    return positions, attention_mask(is_pad, document) if bool(needs_mask.any()) else None


def attention_mask(is_pad: Tensor, document: Optional[Tensor] = None) -> Tensor:
    """Which keys each position may see, where plain causality is not enough.

    Args:
        is_pad: (B, T) bool.
        document: (B, T) the number of each position's document, which sees no other.

    Returns:
        (B, 1, T, T) bool, True = may attend: causal, and never to padding. A padding position sees
        itself, so that no row is empty (softmax of an empty row is NaN).
    """
    place = torch.arange(is_pad.size(1), device=is_pad.device)
    query, key = place[:, None], place[None, :]  # (T, 1), (1, T)
    visible = (key <= query) & ~is_pad[:, None, None, :]  # (B, 1, T, T)
    if document is not None:
        visible &= document[:, None, :, None] == document[:, None, None, :]
    return visible | (key == query)
