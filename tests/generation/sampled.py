"""A sampler without a model, and the distribution it is to draw from, token by token in plain Python."""

from math import exp
from typing import Sequence

import torch
from torch import Tensor

from metaseq_plugin.generation.sampler import Sampler
from metaseq_plugin.generation.settings import Settings
from tests.opt_models import PAD

EOS = 2


def sampler(
    settings: Sequence[Settings], numbers: Tensor, vocab: int, prompt: Sequence[int] = (EOS,)
) -> Sampler:
    """Of rows that all have ``prompt``, and draw by ``numbers`` (rows, steps)."""
    found = Sampler(PAD, EOS, torch.device("cpu"))
    found.join(settings, [prompt] * len(settings), [numbers], vocab)
    return found


def surviving(probs: dict[int, float], top_k: int, top_p: float) -> dict[int, float]:
    """The definition, token by token: top-k, renormalise, the fewest that reach top-p, renormalise."""
    ranked = sorted(probs, key=lambda i: -probs[i])[: top_k or None]
    total = sum(probs[i] for i in ranked)
    kept: list[int] = []
    for i in ranked:
        if kept and sum(probs[j] for j in kept) / total >= top_p:
            break
        kept.append(i)
    mass = sum(probs[i] for i in kept)
    return {i: probs[i] / mass for i in kept}


def distribution(
    logits: Sequence[float], settings: Settings, prompt: Sequence[int], tokens: Sequence[int]
) -> dict[int, float]:
    """What the next token is drawn from behind ``prompt``, whose first is </s>, and new ``tokens``."""
    bias = dict(settings.logit_bias)
    weights = {}
    for token, logit in enumerate(logits):
        new, old = tokens.count(token), prompt[1:].count(token)
        logit += bias.get(token, 0.0)
        logit -= new * settings.frequency_penalty + (new > 0) * settings.presence_penalty
        logit -= old * settings.prompt_frequency_penalty
        logit -= (old > 0) * settings.prompt_presence_penalty
        is_early = token == EOS and len(tokens) < settings.min_new_tokens
        if token != PAD and not is_early:
            weights[token] = exp(logit / settings.temperature)
    total = sum(weights.values())
    probs = {token: weight / total for token, weight in weights.items()}
    t = 1
    for token in tokens:
        t = 1 if token in settings.sentence_ends else t + 1
    top_p = settings.top_p
    if settings.top_p_decay < 1:
        top_p = max(settings.top_p_floor, top_p * settings.top_p_decay ** (t - 1))
    return surviving(probs, settings.top_k, top_p)
