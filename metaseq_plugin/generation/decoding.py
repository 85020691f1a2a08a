"""One or several models stepping through a batch of continuations, each with its cache.

Legend: P prompts, R rows (continuations), T prompt tokens with padding, E features, V vocabulary, N positions.

Prompts of similar length are read in one pass, padded on the right, each into a row of its own; rows
that continue the same prompt get copies of what it left. From then on every row is at its own length.

Of models with ``--document-attention`` a row holds the prompt's last document only: what is written behind
it sees nothing else, and its positions count from there.
"""

from itertools import accumulate, chain
from typing import Optional, Sequence

import torch
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.ranks import on_all_ranks
from metaseq_plugin.generation.scoring import Scores, average, score_places, score_tokens
from metaseq_plugin.generation.trees import Tree
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.modules.cached_attention import DecodeStep, Prefill
from metaseq_plugin.modules.kv_cache import KVCache, bytes_per_token, room_for
from metaseq_plugin.modules.tree_attention import TreeAttention

# A pass over prompts takes at most so many tokens, padding included, unless one prompt has more. Its
# largest tensor is the feed-forward's: in the 125M's fp32 48 MiB.
PASS_TOKENS = 4096
# A pass takes as long as so many more tokens than it has: on a CPU for reading all weights, as the 125M's
# products at 1 and at 2,048 rows show. An accelerator launches each of its kernels, however small.
COST_ON_CPU, COST_ELSEWHERE = 32, 1024


def passes(lengths: Sequence[int], cost: int) -> list[list[int]]:
    """Indices of prompts that are read together, by their ``lengths`` from the longest to the shortest.

    Of all ways to cut this order the one that takes least time, padding and ``cost`` tokens a pass counted.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # Of the first prompts: their time, and where the last of their passes begins.
    least, begins = [0], [0]
    for end in range(1, len(order) + 1):
        found: list[tuple[int, int]] = []
        for begin in range(end - 1, -1, -1):
            padded = lengths[order[begin]] * (end - begin)
            if found and padded > PASS_TOKENS:
                break
            found.append((least[begin] + padded + cost, begin))
        time, begin = min(found)
        least.append(time)
        begins.append(begin)
    cut: list[list[int]] = []
    end = len(order)
    while end:
        cut.append(order[begins[end] : end])
        end = begins[end]
    return cut[::-1]


def pad_right(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Prompts as one matrix, (R, T)."""
    longest = max(map(len, prompts))
    rows = [[*prompt, *[pad] * (longest - len(prompt))] for prompt in prompts]
    return torch.tensor(rows, dtype=torch.long, device=device)


def separator_of(models: Sequence[OPTLanguageModel]) -> Optional[int]:
    """The token behind which ``models`` see nothing of what was before it; None: they see all.

    Raises:
        UserError: they differ in it.
    """
    separators = {model.decoder.separator for model in models}
    if len(separators) > 1:
        raise UserError(
            "Models that are averaged must all be trained with `--document-attention` or all without it, "
            "but are of both kinds. Use one kind."
        )
    return separators.pop()


class Decoding:
    """The models' common state: a row for every continuation, in the order of the caches.

    Several models are averaged: their probabilities, token by token.

    Args:
        max_tokens: as in ``KVCache``.
    """

    def __init__(
        self, models: Sequence[OPTLanguageModel], pad: int, max_tokens: Optional[int] = None
    ) -> None:
        self.models = models
        self.pad = pad
        self.made_with = (pad, max_tokens)  # so that other ranks can make theirs
        self.device = models[0].output_weight.device
        self.separator = separator_of(models)
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

    def document(self, prompt: Sequence[int]) -> Sequence[int]:
        """What of ``prompt`` a row holds."""
        begins = [place for place, token in enumerate(prompt) if token == self.separator]
        return prompt[begins[-1] :] if begins else prompt

    @on_all_ranks
    def admit(
        self,
        prompts: Sequence[Sequence[int]],
        num_tokens: Sequence[int],
        num_rows: Sequence[int],
        with_scores: bool,
        num_top: int = 0,
    ) -> tuple[Tensor, list[Scores], list[int]]:
        """Read prompts into new rows, ``num_rows`` of each; where that fails, nothing has changed.

        Args:
            num_tokens: per prompt, how many tokens its rows make room for.
            with_scores: also score the prompts' tokens after their first.
            num_top: how many alternatives to tell with each score.

        Returns:
            Logits of the first new token, (P, V); per prompt the scores, empty unless asked for; and
            where each row comes from: from 0 on the present ones, then the prompts' in order.
        """
        before = self.caches[0].num_rows
        rooms = [room for room, n in zip(num_tokens, num_rows) for _ in range(n)]
        order: list[int] = []  # the same in all
        admitted: list[KVCache] = []
        try:
            for cache in self.caches:
                order = cache.admit(rooms)
                admitted.append(cache)
            place = {row: index for index, row in enumerate(order)}
            first = accumulate(num_rows[:-1], initial=before)
            sources = [place[row] for row in first]  # the first row of each prompt
            documents = [self.document(prompt) for prompt in prompts]
            is_cut = list(map(len, documents)) != list(map(len, prompts))
            logits, scores = self.prefill(documents, sources, with_scores, num_top)
            if is_cut and with_scores:
                scores = [self.score([p], num_top)[0] for p in prompts]
            for cache in self.caches:
                for source, n in zip(sources, num_rows):
                    if n > 1:
                        cache.repeat(source, n - 1)
        except BaseException:
            for cache in admitted:
                cache.keep([index for index, row in enumerate(order) if row < before])
            raise
        return logits, scores, order

    def prefill(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        with_scores: bool,
        num_top: int,
    ) -> tuple[Tensor, list[Scores]]:
        """Read each prompt into its row; logits (P, V) and scores as in ``admit``, of one document each."""
        cost = COST_ON_CPU if self.device.type == "cpu" else COST_ELSEWHERE
        groups = passes([len(prompt) for prompt in prompts], cost)
        logits, found = [], [Scores([], []) for _ in prompts]
        for group in groups:
            lengths = [len(prompts[index]) for index in group]
            tokens = pad_right([prompts[index] for index in group], self.pad, self.device)  # (R, T)
            place = torch.arange(len(group), device=self.device)
            last = torch.tensor(lengths, device=self.device) - 1  # (R,)
            of_models, read = [], []
            for model, cache in zip(self.models, self.caches):
                reading = Prefill(cache, [rows[index] for index in group], lengths)
                features = model.decoder.extract_features(tokens, reading)  # (R, T, E)
                of_models.append(model.decoder.output_layer(features[place, last]).float())
                read.append(features[:, :-1])
            logits.append(average(of_models))
            if with_scores:
                kept = [slice(length - 1) for length in lengths]
                scores = score_tokens(self.models, read, tokens[:, 1:], kept, num_top)
                for index, of_prompt in zip(group, scores):
                    found[index] = of_prompt
        order = list(chain.from_iterable(groups))
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(logits)[torch.tensor(back, device=self.device)], found

    @on_all_ranks
    def step(self, tokens: Tensor) -> Tensor:
        """Read one token per row, (R,); logits of the next, (R, V)."""
        logits = []
        for model, cache in zip(self.models, self.caches):
            step = DecodeStep(cache, self.device, model.decoder.embed_positions.weight.dtype)
            features = model.decoder.extract_features(tokens[:, None], step)  # (R, 1, E)
            logits.append(model.decoder.output_layer(features[:, -1]).float())
        return average(logits)

    @on_all_ranks
    def keep(self, rows: Sequence[int]) -> list[int]:
        """Go on with ``rows`` only, which rise; where each row then comes from."""
        order, *_ = [cache.keep(rows) for cache in self.caches]  # the same in all
        return order

    @on_all_ranks
    def select(self, rows: Sequence[int], start: int) -> None:
        """Row i becomes what ``rows[i]`` was, from token ``start`` on; for rows of equal room."""
        for cache in self.caches:
            cache.select(rows, start)

    @on_all_ranks
    def score(self, rows: Sequence[Sequence[int]], num_top: int = 0) -> list[Scores]:
        """Score the tokens of ``rows`` after their first, beside the continuations."""
        if max(map(len, rows)) == 1:  # nothing behind the leading </s>
            return [Scores([], []) for _ in rows]
        tokens = pad_right(rows, self.pad, self.device)  # (B, T)
        # (B, T - 1, E) of each model
        features = [model.decoder.extract_features(tokens[:, :-1]) for model in self.models]
        kept = [slice(len(row) - 1) for row in rows]
        return score_tokens(self.models, features, tokens[:, 1:], kept, num_top)

    @on_all_ranks
    def score_trees(
        self, trees: Sequence[Tree], places: Sequence[int], targets: Sequence[int]
    ) -> tuple[list[float], list[bool]]:
        """Score tokens behind some of the trees' tokens, beside the continuations.

        Args:
            places: number of the tree · T + place in it, rising; T of the largest tree.
            targets: a token behind each of them.

        Returns:
            As ``score_places``.
        """
        tokens = pad_right([tree.tokens for tree in trees], self.pad, self.device)  # (B, T)
        are_rows = all(tree.is_row for tree in trees)
        padding = [range(len(tree.tokens) + 1, tokens.size(1) + 1) for tree in trees]
        ends = pad_right([[*t.ends, *p] for t, p in zip(trees, padding)], 0, self.device)
        depths = pad_right([tree.depths for tree in trees], 0, self.device)
        features = []  # (B, T, E) of each model
        for model in self.models:
            dtype = model.decoder.embed_positions.weight.dtype
            attention = None if are_rows else TreeAttention(depths, ends, dtype)
            features.append(model.decoder.extract_features(tokens, attention))
        return score_places(
            self.models,
            features,
            torch.tensor(places, device=self.device),
            torch.tensor(targets, device=self.device),
        )
