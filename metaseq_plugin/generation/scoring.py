"""What given tokens score: those of a prompt, and of texts that are not continued.

Legend: M models, R rows, T tokens with padding, E features, V vocabulary, K alternatives, N positions,
W wanted tokens.

A score is the natural log-probability of a token behind those before it; beside it stand, where asked
for, the likeliest tokens of its place. The logits of all positions are never held at once; where only some
positions are wanted, there are none of the others.
"""

import math
from itertools import chain
from typing import NamedTuple, Sequence

import torch
from torch import Tensor

from metaseq_plugin.generation.finite import check_scores
from metaseq_plugin.generation.settings import TopScores
from metaseq_plugin.models.opt import OPTLanguageModel

# Positions whose logits are held at once: 256 × 50,272 × 4 bytes = 51 MB for each model.
SCORED_AT_ONCE = 256


class Scores(NamedTuple):
    """Of one row's tokens behind its first; empty where not asked for."""

    scores: list[float]
    top_scores: list[TopScores]

    def first(self, num_top: int) -> "Scores":
        """The same with fewer alternatives."""
        return Scores(self.scores, [top[:num_top] for top in self.top_scores] if num_top else [])


def average(logits: list[Tensor]) -> Tensor:
    """Log of several models' mean probability; of one model its logits as they are."""
    if len(logits) == 1:
        return logits[0]
    log_probs = torch.stack([part.log_softmax(-1) for part in logits])
    return log_probs.logsumexp(0) - math.log(len(logits))


def score_tokens(
    models: Sequence[OPTLanguageModel],
    features: Sequence[Tensor],
    targets: Tensor,
    kept: Sequence[slice],
    num_top: int = 0,
) -> list[Scores]:
    """Score the tokens that follow ``features``, by the models' mean probability.

    Args:
        features: (R, T, E) of each model.
        targets: (R, T), the token behind each position.
        kept: of each row, the positions that are not padding.
        num_top: K; more than V are V.

    Raises:
        UserError: a score is not finite.
    """
    parts = [part.flatten(0, 1).split(SCORED_AT_ONCE) for part in features]  # M × (N, E)
    scores, tokens, tops = [], [], []
    for target, *chunk in zip(targets.flatten().split(SCORED_AT_ONCE), *parts):
        pairs = zip(models, chunk)
        logits = average([model.decoder.output_layer(part).float() for model, part in pairs])
        normalizer = logits.logsumexp(-1, keepdim=True)  # (N, 1)
        top = logits.topk(min(num_top, logits.size(-1)))  # (N, K)
        scores.append((logits.gather(1, target[:, None]) - normalizer)[:, 0])
        tokens.append(top.indices)
        tops.append(top.values - normalizer)
    shape = targets.shape
    rows = zip(*(torch.cat(part).unflatten(0, shape).tolist() for part in (scores, tokens, tops)))
    found = []
    for (values, ids, likeliest), span in zip(rows, kept):
        pairs_of_each = [list(zip(*pair)) for pair in zip(ids[span], likeliest[span])]
        found.append(Scores(values[span], pairs_of_each if num_top else []))
    check_scores(chain.from_iterable(row.scores for row in found), models)
    return found


def score_places(
    models: Sequence[OPTLanguageModel], features: Sequence[Tensor], places: Tensor, targets: Tensor
) -> tuple[list[float], list[bool]]:
    """Score tokens behind some of the positions, by the models' mean probability.

    Args:
        features: (R, T, E) of each model.
        places: (W,), positions among R·T, rising; several tokens may be wanted behind one.
        targets: (W,), the tokens.

    Returns:
        Of each token its score, and whether it is the likeliest of its place.

    Raises:
        UserError: a score is not finite.
    """
    distinct, which = places.unique_consecutive(return_inverse=True)  # (N,), (W,)
    parts = [part.flatten(0, 1)[distinct].split(SCORED_AT_ONCE) for part in features]  # (N, E)
    scores, are_likeliest = [], []
    for number, chunk in enumerate(zip(*parts)):
        pairs = zip(models, chunk)
        logits = average([model.decoder.output_layer(part).float() for model, part in pairs])
        wanted = which // SCORED_AT_ONCE == number
        row, target = which[wanted] % SCORED_AT_ONCE, targets[wanted]
        scores.append(logits[row, target] - logits.logsumexp(-1)[row])
        are_likeliest.append(logits.argmax(-1)[row] == target)
    found: list[float] = torch.cat(scores).tolist()
    check_scores(found, models)
    return found, torch.cat(are_likeliest).tolist()
