"""Which row of the position table a token takes, and which tokens it may attend to.

B batch, T new tokens, S all tokens so far. Rows count tokens that are no padding, as fairseq's learned
positions do: position p (from 0) takes row p + 2; rows 0 and 1 belong to <s> and <pad>. Hugging Face
calls it the offset.

With ``document_end``, the id of </s>, documents in one row of the batch do not see each other:

    tokens      a  b  </s>  c  d  e  </s>  f        </s> ends its own document
    position    0  1   2    0  1  2   3    0
    sees        causal, back to its document's first token

A cache (generation) holds one document: there </s> is what ended an earlier one, and is hidden.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from metaseq_plugin.modules.kv_cache import KVCache, attention_mask

POSITION_OFFSET = 2

Located = Tuple[
    Tensor, Optional[Tensor]
]  # rows (B, T); mask (B, 1, T, S) where causality is not enough


def locate(
    tokens: Tensor, padding_idx: int, cache: Optional[KVCache], document_end: Optional[int]
) -> Located:
    """Rows and mask of ``tokens`` (B, T); padding takes row ``padding_idx``."""
    is_pad = tokens.eq(padding_idx)
    is_end = None if document_end is None else tokens.eq(document_end)
    if is_end is not None and cache is None:
        return _within_documents(is_pad, is_end, padding_idx)
    num_new = tokens.size(1)
    if cache is None:
        hidden = is_pad
        # Padding on the right is behind every query that counts: no mask, the fast kernels.
        masked = num_new > 1 and bool((is_pad[:, :-1] & ~is_pad[:, 1:]).any())
    else:
        if is_end is not None:
            cache.has_pad = True
        hidden = cache.observe(is_pad if is_end is None else is_pad | is_end)  # (B, S)
        masked = cache.has_pad or (num_new > 1 and cache.length > 0)
    rows = (~hidden).cumsum(1)[:, -num_new:] + (POSITION_OFFSET - 1)
    if is_end is not None:
        rows = rows + is_end  # the first of a document that it is all of
    rows = rows.masked_fill(is_pad, padding_idx)
    return rows, attention_mask(hidden, num_new) if masked else None


def _within_documents(is_pad: Tensor, is_end: Tensor, padding_idx: int) -> Located:
    """As ``locate``, for rows of several documents, from (B, T) bool."""
    ends = is_end.cumsum(1)
    document = ends - is_end.long()  # (B, T): how many documents ended before
    counted = (~is_pad).cumsum(1)
    # What was counted when the document before this one ended; 0 in the first.
    before = torch.zeros_like(counted)
    before[:, 1:] = (counted * is_end).cummax(1).values[:, :-1]
    rows = (counted - before + (POSITION_OFFSET - 1)).masked_fill(is_pad, padding_idx)
    same = document[:, None, :, None] == document[:, None, None, :]  # (B, 1, T, T)
    return rows, attention_mask(is_pad, is_pad.size(1)) & same
