"""Reading rows of tokens into a cache, as generation does, and spoiling what no row may look at."""

from typing import Sequence

import torch
from torch import Tensor

from metaseq_plugin.models.opt import OPTDecoder
from metaseq_plugin.modules.cached_attention import DecodeStep, Prefill
from metaseq_plugin.modules.kv_cache import KVCache
from tests.opt_models import PAD


@torch.inference_mode()
def spoil(cache: KVCache) -> None:
    """NaN in every free slot, and in the columns that rows do not call clean."""
    for bucket in cache.buckets:
        for tensor in (*bucket.keys, *bucket.values):
            if len(tensor) > 0:
                tensor[len(bucket.lengths) :] = torch.nan
                for row, clean in enumerate(bucket.clean):
                    tensor[row, :, clean:] = torch.nan


@torch.no_grad()
def cached_logits(
    model: OPTDecoder, rows: Sequence[Sequence[int]], num_read: Sequence[int], spoils: bool = False
) -> list[Tensor]:
    """Logits (T, V) of each row, of which the first ``num_read`` tokens are read in one pass, the others singly."""
    cache = KVCache(len(model.layers), model.longest)
    order = cache.admit([len(row) for row in rows])
    longest = max(num_read)
    prompts = [[*row[:n], *[PAD] * (longest - n)] for row, n in zip(rows, num_read)]
    reading = Prefill(cache, [order.index(number) for number in range(len(rows))], num_read)
    read = model(torch.tensor(prompts), cache=reading)[0]  # (B, T, V)
    found = [[read[number, :n]] for number, n in enumerate(num_read)]
    for step in range(max(len(row) - n for row, n in zip(rows, num_read))):
        if spoils:
            spoil(cache)
        rest = [list(row[n:]) for row, n in zip(rows, num_read)]
        tokens = torch.tensor([[(rest[i][step : step + 1] or [PAD])[0]] for i in order])
        logits = model(tokens, cache=DecodeStep(cache, tokens.device, read.dtype))[0]  # (B, 1, V)
        for place, number in enumerate(order):
            if step < len(rest[number]):
                found[number].append(logits[place])
    return [torch.cat(parts) for parts in found]
