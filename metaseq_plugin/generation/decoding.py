"""One or several models stepping through a batch of continuations, each with its cache.

Legend: R rows (continuations), T prompt tokens with padding, E features, V vocabulary, N positions.

Prompts are padded on the left, so that every row's last token is in the last column and all rows
take their first new token in the same step. The decoder gives padding no position and no attention.
"""

import math
from itertools import chain
from typing import Optional, Sequence

import torch
from torch import Tensor

from metaseq_plugin.generation.finite import check_scores
from metaseq_plugin.generation.ranks import on_all_ranks
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.modules.kv_cache import KVCache

# Positions whose logits are held at once when a prompt is scored: 256 × 50,272 × 4 bytes = 51 MB.
SCORED_AT_ONCE = 256


def pad_left(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Prompts as one matrix, (R, T)."""
    longest = max(map(len, prompts))
    rows = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    return torch.tensor(rows, dtype=torch.long, device=device)


def next_token_scores(model: OPTLanguageModel, features: Tensor, targets: Tensor) -> Tensor:
    """Natural log-probabilities of ``targets`` (R, T) given ``features`` (R, T, E), as (R, T)."""
    flat = features.flatten(0, 1)  # (R·T, E)
    scores = []
    for part, target in zip(flat.split(SCORED_AT_ONCE), targets.flatten().split(SCORED_AT_ONCE)):
        logits = model.decoder.output_layer(part).float()  # (N, V)
        scores.append(logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(-1))
    return torch.cat(scores).view_as(targets)


def average(outputs: list[Tensor], normalized: bool = False) -> Tensor:
    """Log of several models' mean probability; of one model its output as it is."""
    if len(outputs) == 1:
        return outputs[0]
    log_probs = outputs if normalized else [output.log_softmax(-1) for output in outputs]
    return torch.stack(log_probs).logsumexp(0) - math.log(len(outputs))


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

    @on_all_ranks
    def prefill(
        self, prompts: Sequence[Sequence[int]], capacity: int, with_scores: bool
    ) -> tuple[Tensor, list[list[float]]]:
        """Read all prompts in one forward pass.

        Args:
            capacity: longest row in tokens to make room for.
            with_scores: also score the prompts' tokens after their first.

        Returns:
            Logits of the first new token, (R, V), and per prompt the scores, none unless asked for.
        """
        device = self.models[0].output_weight.device
        tokens = pad_left(prompts, self.pad, device)  # (R, T)
        has_pad = min(map(len, prompts)) < tokens.size(1)
        logits, scores = [], []
        self.caches = []
        for model in self.models:
            # Later a row is given padding only once it is finished, so nothing need look for it.
            cache = KVCache(len(model.decoder.layers), capacity, has_pad)
            features = model.decoder.extract_features(tokens, cache)  # (R, T, E)
            logits.append(model.decoder.output_layer(features[:, -1]).float())
            if with_scores:
                scores.append(next_token_scores(model, features[:, :-1], tokens[:, 1:]))
            self.caches.append(cache)
        found: list[list[float]] = [[] for _ in prompts]
        if with_scores:
            rows = average(scores, normalized=True).tolist()  # (R, T - 1), left padding first
            found = [row[len(row) + 1 - len(prompt) :] for row, prompt in zip(rows, prompts)]
            check_scores(chain.from_iterable(found), self.models)
        return average(logits), found

    @on_all_ranks
    def score(self, tokens: Tensor) -> Tensor:
        """Natural log-probability of each token of (R, T) after the first, (R, T - 1); no cache."""
        scores = []
        for model in self.models:
            features = model.decoder.extract_features(tokens[:, :-1])  # (R, T - 1, E)
            scores.append(next_token_scores(model, features, tokens[:, 1:]))
        return average(scores, normalized=True)

    @on_all_ranks
    def step(self, tokens: Tensor) -> Tensor:
        """Read one token per row, (R,); logits of the next, (R, V). Padding is for finished rows."""
        logits = []
        for model, cache in zip(self.models, self.caches):
            features = model.decoder.extract_features(tokens[:, None], cache)  # (R, 1, E)
            logits.append(model.decoder.output_layer(features[:, -1]).float())
        return average(logits)

    @on_all_ranks
    def select(self, rows: Tensor, capacity: Optional[int] = None) -> None:
        """Go on with ``rows`` only, (R',) indices of present rows; they may repeat."""
        for cache in self.caches:
            cache.select(rows, capacity)

    @on_all_ranks
    def join(self, newcomers: "Decoding", longest: int, new_tokens: int) -> None:
        """Go on with the rows of ``newcomers`` too, behind the present ones.

        Args:
            longest: the longest present row in tokens; padding in front of it is dropped.
            new_tokens: how many more tokens to make room for.
        """
        for cache, other in zip(self.caches, newcomers.caches):
            capacity = max(longest, other.length) + new_tokens
            cache.join(other, cache.length - longest, capacity)

    @on_all_ranks
    def reorder(self, rows: Tensor, start: int) -> None:
        """Rearrange the rows, (R,), which share their first ``start`` tokens with whom they replace."""
        for cache in self.caches:
            cache.reorder(rows, start)
