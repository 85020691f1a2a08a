"""One or several models stepping through a batch of continuations, each with its cache.

Legend: P prompts, R rows (continuations), T prompt tokens with padding, E features, V vocabulary, N positions.

Prompts of similar length are read in one pass, padded on the right, each into a row of its own; rows
that continue the same prompt get copies of what it left. From then on every row is at its own length.
"""

import math
from itertools import accumulate, chain
from typing import Iterator, Optional, Sequence

import torch
from torch import Tensor

from metaseq_plugin.generation.finite import check_scores
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.modules.cached_attention import DecodeStep, Prefill
from metaseq_plugin.modules.kv_cache import KVCache, bytes_per_token, room_for

# Positions whose logits are held at once when a prompt is scored: 256 × 50,272 × 4 bytes = 51 MB.
SCORED_AT_ONCE = 256

# A pass over prompts takes at most so many tokens, padding included, unless one prompt has more. Its
# largest tensor is the feed-forward's: in the 125M's fp32 48 MiB.
PASS_TOKENS = 4096
# Padding is at most half of a pass, or the pass has at most so many tokens: a pass reads all weights,
# which takes a CPU as long as some dozens of tokens do.
SMALL_PASS_TOKENS = 128


def passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of prompts that are read together, by their ``lengths`` from the longest to the shortest."""
    together: list[int] = []
    longest = real = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padded = longest * (len(together) + 1)
        is_wasteful = padded > max(2 * (real + lengths[index]), SMALL_PASS_TOKENS)
        if together and (padded > PASS_TOKENS or is_wasteful):
            yield together
            together = []
        if not together:
            longest, real = lengths[index], 0
        together.append(index)
        real += lengths[index]
    if together:
        yield together


def pad_right(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Prompts as one matrix, (R, T)."""
    longest = max(map(len, prompts))
    rows = [[*prompt, *[pad] * (longest - len(prompt))] for prompt in prompts]
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
    """The models' common state: a row for every continuation, in the order of the caches.

    Args:
        max_tokens: as in ``KVCache``.
    """

    def __init__(
        self, models: Sequence[OPTLanguageModel], pad: int, max_tokens: Optional[int] = None
    ) -> None:
        self.models = models
        self.pad = pad
        self.device = models[0].output_weight.device
        self.longest = min(model.max_positions() for model in models)
        self.caches = [
            KVCache(len(model.decoder.layers), self.longest, max_tokens) for model in models
        ]

    @property
    def bytes_per_token(self) -> int:
        """What a token of ``cost`` takes in memory, in bytes."""
        weights = [model.decoder.embed_positions.weight for model in self.models]
        return sum(
            bytes_per_token(len(model.decoder.layers), weight.size(1), weight.dtype)
            for model, weight in zip(self.models, weights)
        )

    def limit(self, prompt: Sequence[int], limit: int) -> int:
        """At most ``limit`` new tokens: one more than the models read behind ``prompt``, for the last is not read."""
        return min(limit, self.longest + 1 - len(prompt))

    def cost(self, prompt: Sequence[int], limit: int, num_rows: int) -> int:
        """Tokens that ``num_rows`` continuations of ``prompt`` by up to ``limit`` tokens keep room for."""
        return num_rows * room_for(len(prompt) + self.limit(prompt, limit) - 1, self.longest)

    def admit(
        self,
        prompts: Sequence[Sequence[int]],
        num_tokens: Sequence[int],
        num_rows: Sequence[int],
        with_scores: bool,
    ) -> tuple[Tensor, list[list[float]], list[int]]:
        """Read prompts into new rows, ``num_rows`` of each; where that fails, nothing has changed.

        Args:
            num_tokens: per prompt, how many tokens its rows make room for.
            with_scores: also score the prompts' tokens after their first.

        Returns:
            Logits of the first new token, (P, V); per prompt the scores, none unless asked for; and
            where each row comes from: from 0 on the present ones, then the prompts' in order.
        """
        before = self.caches[0].num_rows
        rooms = [room for room, n in zip(num_tokens, num_rows) for _ in range(n)]
        for cache in self.caches:
            order = cache.admit(rooms)
        place = {row: index for index, row in enumerate(order)}
        first = accumulate(num_rows[:-1], initial=before)
        sources = [place[row] for row in first]  # the first row of each prompt
        try:
            logits, scores = self.prefill(prompts, sources, with_scores)
            for cache in self.caches:
                for source, n in zip(sources, num_rows):
                    if n > 1:
                        cache.repeat(source, n - 1)
        except BaseException:
            self.keep([index for index, row in enumerate(order) if row < before])
            raise
        return logits, scores, order

    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], with_scores: bool
    ) -> tuple[Tensor, list[list[float]]]:
        """Read each prompt into its row; logits (P, V) and scores as in ``admit``."""
        groups = list(passes([len(prompt) for prompt in prompts]))
        logits = []
        found: list[list[float]] = [[] for _ in prompts]
        for group in groups:
            lengths = [len(prompts[index]) for index in group]
            tokens = pad_right([prompts[index] for index in group], self.pad, self.device)  # (R, T)
            last = torch.tensor(lengths, device=self.device) - 1  # (R,)
            of_models, scores = [], []
            for model, cache in zip(self.models, self.caches):
                reading = Prefill(cache, [rows[index] for index in group], lengths)
                features = model.decoder.extract_features(tokens, reading)  # (R, T, E)
                ends = features[torch.arange(len(group), device=self.device), last]  # (R, E)
                of_models.append(model.decoder.output_layer(ends).float())
                if with_scores:
                    scores.append(next_token_scores(model, features[:, :-1], tokens[:, 1:]))
            logits.append(average(of_models))
            if with_scores:
                for index, values in zip(group, average(scores, normalized=True).tolist()):
                    found[index] = values[: len(prompts[index]) - 1]
        check_scores(chain.from_iterable(found), self.models)
        read = list(chain.from_iterable(groups))
        in_order = sorted(range(len(read)), key=read.__getitem__)
        return torch.cat(logits)[torch.tensor(in_order, device=self.device)], found

    def step(self, tokens: Tensor) -> Tensor:
        """Read one token per row, (R,); logits of the next, (R, V)."""
        logits = []
        for model, cache in zip(self.models, self.caches):
            step = DecodeStep(cache, self.device, model.decoder.embed_positions.weight.dtype)
            features = model.decoder.extract_features(tokens[:, None], step)  # (R, 1, E)
            logits.append(model.decoder.output_layer(features[:, -1]).float())
        return average(logits)

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Go on with ``rows`` only, which rise; where each row then comes from."""
        for cache in self.caches:
            order = cache.keep(rows)
        return order

    def select(self, rows: Sequence[int], start: int) -> None:
        """Row i becomes what ``rows[i]`` was, from token ``start`` on; for rows of equal room."""
        for cache in self.caches:
            cache.select(rows, start)
