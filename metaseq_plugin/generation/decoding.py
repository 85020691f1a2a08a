"""One or several models stepping through a batch of continuations, each with its cache.

Legend: R rows (continuations), T prompt tokens with padding, E features, V vocabulary, N positions.

Prompts are padded on the left, so that every row's last token is in the last column and all rows
take their first new token in the same step. The decoder gives padding no position and no attention.
"""

from typing import Optional, Sequence

import torch
from torch import Tensor

from metaseq_plugin.generation.scoring import Scores, average, score_tokens
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.modules.kv_cache import KVCache


def pad_left(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Prompts as one matrix, (R, T)."""
    longest = max(map(len, prompts))
    rows = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    return torch.tensor(rows, dtype=torch.long, device=device)


class Decoding:
    """The models' common state: a batch of continuations, all equally long counting padding.

    Several models are averaged: their probabilities, token by token.
    """

    def __init__(self, models: Sequence[OPTLanguageModel], pad: int) -> None:
        self.models = models
        self.pad = pad
        self.caches: list[KVCache] = []

    def room(self, prompt: Sequence[int]) -> int:
        """Most new tokens behind ``prompt``: one more than the models read, for the last is not read."""
        return min(model.max_positions() for model in self.models) + 1 - len(prompt)

    def prefill(
        self, prompts: Sequence[Sequence[int]], capacity: int, with_scores: bool, num_top: int = 0
    ) -> tuple[Tensor, list[Scores]]:
        """Read all prompts in one forward pass.

        Args:
            capacity: longest row in tokens to make room for.
            with_scores: also score the prompts' tokens after their first.
            num_top: how many alternatives to tell with each score.

        Returns:
            Logits of the first new token, (R, V), and per prompt the scores, empty unless asked for.
        """
        device = self.models[0].output_weight.device
        tokens = pad_left(prompts, self.pad, device)  # (R, T)
        has_pad = min(map(len, prompts)) < tokens.size(1)
        logits, read = [], []
        self.caches = []
        for model in self.models:
            # Later a row is given padding only once it is finished, so nothing need look for it.
            cache = KVCache(len(model.decoder.layers), capacity, has_pad)
            features = model.decoder.extract_features(tokens, cache)  # (R, T, E)
            logits.append(model.decoder.output_layer(features[:, -1]).float())
            read.append(features[:, :-1])
            self.caches.append(cache)
        if not with_scores:
            return average(logits), [Scores([], []) for _ in prompts]
        kept = [slice(tokens.size(1) - len(prompt), None) for prompt in prompts]
        return average(logits), score_tokens(self.models, read, tokens[:, 1:], kept, num_top)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one token per row, (R,); logits of the next, (R, V). Padding is for finished rows."""
        logits = []
        for model, cache in zip(self.models, self.caches):
            features = model.decoder.extract_features(tokens[:, None], cache)  # (R, 1, E)
            logits.append(model.decoder.output_layer(features[:, -1]).float())
        return average(logits)

    def select(self, rows: Tensor, capacity: Optional[int] = None) -> None:
        """Go on with ``rows`` only, (R',) indices of present rows; they may repeat."""
        for cache in self.caches:
            cache.select(rows, capacity)

    def join(self, newcomers: "Decoding", longest: int, new_tokens: int) -> None:
        """Go on with the rows of ``newcomers`` too, behind the present ones.

        Args:
            longest: the longest present row in tokens; padding in front of it is dropped.
            new_tokens: how many more tokens to make room for.
        """
        for cache, other in zip(self.caches, newcomers.caches):
            capacity = max(longest, other.length) + new_tokens
            cache.join(other, cache.length - longest, capacity)

    def reorder(self, rows: Tensor, start: int) -> None:
        """Rearrange the rows, (R,), which share their first ``start`` tokens with whom they replace."""
        for cache in self.caches:
            cache.reorder(rows, start)
