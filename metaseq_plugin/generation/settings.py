"""What a generation asks for, checked once at the door, and what it gives.

Lengths count new tokens, never the prompt, and ``</s>`` counts as one. A hypothesis that reaches its
maximum ends there: no ``</s>`` is forced upon it, so its scores are those of real choices.
"""

from collections import Counter
from dataclasses import dataclass
from math import inf
from numbers import Integral, Real
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional, get_type_hints

import numpy as np

from metaseq_plugin.compat.errors import UserError

# Dividing logits by less than this overflows fp32; the distribution is one token long before.
SMALLEST_TEMPERATURE = 1e-5
# A million tokens to this power is still a number.
LARGEST_PENALTY = 50
# OpenAI's bound: more than this blocks a token, or leaves no other.
LARGEST_SHIFT = 100
PENALTIES = (
    "presence_penalty",
    "frequency_penalty",
    "prompt_presence_penalty",
    "prompt_frequency_penalty",
)
# Alternatives are brought to the host for each token.
MOST_TOP_SCORES = 100

TopScores = list[
    tuple[int, float]
]  # the likeliest tokens and their natural log-probabilities, falling


@dataclass(frozen=True)
class Settings:
    """How continuations are chosen.

    With ``beam`` 1, tokens are sampled (``temperature`` 0: the likeliest one is taken); with more,
    beam search keeps that many hypotheses and ``temperature`` only flattens or sharpens their scores.
    """

    min_new_tokens: int = 0  # </s> is blocked until so many tokens stand
    temperature: float = 1.0  # logits are divided by it; 0 is greedy
    top_k: int = 0  # choose among the k likeliest tokens; 0: among all
    top_p: float = 1.0  # then among the fewest likeliest that together reach probability p
    beam: int = 1
    num_samples: int = 1  # independent continuations per prompt
    length_penalty: float = 1.0  # beam search ranks by sum of scores / length ** penalty
    normalize: bool = True  # False: rank by the sum itself
    presence_penalty: float = 0.0  # taken off the logit of each token that the new ones hold
    frequency_penalty: float = 0.0  # taken off it as often as they hold it
    prompt_presence_penalty: float = 0.0  # the same for the prompt's tokens, its first </s> aside
    prompt_frequency_penalty: float = 0.0
    top_p_decay: float = 1.0  # top_p is multiplied by it with each new token ("factual nucleus"),
    top_p_floor: float = 0.3  # never falls below this while it decays,
    sentence_ends: tuple[int, ...] = ()  # and is itself again behind one of these tokens
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    num_top_scores: int = 0  # so many likeliest tokens are told with each token that is scored
    seed: Optional[int] = None  # None: another outcome each time
    with_scores: bool = True
    with_prompt_scores: bool = False  # also of the prompt's tokens after the first

    @property
    def is_greedy(self) -> bool:
        return self.temperature < SMALLEST_TEMPERATURE

    @property
    def is_shifted(self) -> bool:
        """Whether anything is added to the logits."""
        return bool(self.logit_bias) or any(vars(self)[name] for name in PENALTIES)

    @property
    def is_cut(self) -> bool:
        """Whether tokens are chosen among the likeliest only."""
        return self.top_k > 0 or self.top_p < 1 or self.top_p_decay < 1

    def rank(self, total: float, length: int) -> float:
        """The number that hypotheses are compared by, from the sum of their tokens' scores."""
        return total / length**self.length_penalty if self.normalize else total


class Hypothesis(NamedTuple):
    """One continuation."""

    tokens: list[int]  # new tokens, with the </s> that ended it, if one did
    scores: list[float]  # natural log-probability of each; empty where none were asked for
    rank: float  # what hypotheses are compared by; 0 without scores
    finish_reason: str  # "eos", "length" or "stop"
    top_scores: list[TopScores]  # beside each score, where asked for


class Continuations(NamedTuple):
    """Of one prompt: samples in order, or beam search's hypotheses from the best on."""

    hypotheses: list[Hypothesis]
    prompt_scores: list[float]  # of the prompt's tokens after the first; empty unless asked for
    prompt_top_scores: list[TopScores]  # beside each of them, where asked for


def is_whole(value: object) -> bool:
    """Whether ``value`` is an integer, Python's or NumPy's; True is none, nor is 5.0."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_bias(value: object) -> bool:
    """Whether ``value`` is a pair of a whole number and a number."""
    is_pair = isinstance(value, tuple) and len(value) == 2
    return is_pair and is_whole(value[0]) and is_number(value[1])  # type: ignore[index]


def is_number(value: object) -> bool:
    """Whether ``value`` is a number, whole or not; True is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


class Kind(NamedTuple):
    """What a user may give where a field has a type."""

    fits: Callable[[object], bool]
    words: str
    remedy: str


# fmt: off
KINDS: dict[Any, Kind] = {
    int: Kind(is_whole, "a whole number", "Set 8, say."),
    Optional[int]: Kind(lambda v: v is None or is_whole(v), "a whole number or None", "Set 1, say."),
    float: Kind(is_number, "a number", "Set 0.9, say."),
    bool: Kind(lambda v: isinstance(v, (bool, np.bool_)), "True or False", "Set True."),
    tuple[int, ...]: Kind(
        lambda v: isinstance(v, tuple) and all(map(is_whole, v)), "a tuple of token ids", "Set (4,), say."
    ),
    tuple[tuple[int, float], ...]: Kind(
        lambda v: isinstance(v, tuple) and all(map(is_bias, v)),
        "a tuple of pairs of a token id and a number", "Set ((4, -100.0),), say.",
    ),
}
# fmt: on


def check_types(values: Mapping[str, object], spelled: Mapping[str, str]) -> None:
    """Refuse values of another type than their field's, all in one message.

    Args:
        values: by the names of ``Settings``, "max_new_tokens" or "batch_size".
        spelled: as in ``check_settings``; fields without an entry are not the user's.
    """
    types = {**get_type_hints(Settings), "max_new_tokens": int, "batch_size": Optional[int]}
    problems = [
        f"`{spelled[name]}` must be {kind.words}, but is {value!r}. {kind.remedy}"
        for name, value in values.items()
        if name in spelled
        for kind in (KINDS[types[name]],)
        if not kind.fits(value)
    ]
    if problems:
        raise UserError(*problems)


def check_settings(
    settings: Settings, max_new_tokens: int, spelled: Mapping[str, str], vocab_size: int
) -> None:
    """Refuse impossible settings, all in one message.

    Args:
        spelled: field name → how this caller's user writes it, such as ``--sampling-topk``.
    """
    check_types({**vars(settings), "max_new_tokens": max_new_tokens}, spelled)
    problems = [
        *wrong_values(settings, max_new_tokens, spelled),
        *wrong_tokens(settings, spelled, vocab_size),
        *contradictions(settings, max_new_tokens, spelled, vocab_size),
    ]
    if problems:
        raise UserError(*problems)


def wrong_values(
    settings: Settings, max_new_tokens: int, spelled: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong with single values."""
    values = {**vars(settings), "max_new_tokens": max_new_tokens}
    temperature, tops = settings.temperature, settings.num_top_scores
    rules = [
        ("temperature", 0 <= temperature < inf, "be 0 (greedy) or more", "Set 1.0 to sample."),
        ("top_k", settings.top_k >= 0, "be 0 (all tokens) or more", "Set 50, say."),
        ("top_p", 0 <= settings.top_p <= 1, "be between 0 and 1", "Set 0.9, say."),
        ("top_p_decay", 0 <= settings.top_p_decay <= 1, "be between 0 and 1", "Set 0.9, say."),
        ("top_p_floor", 0 <= settings.top_p_floor <= 1, "be between 0 and 1", "Set 0.3, say."),
        ("beam", settings.beam >= 1, "be at least 1", "Set 1 for no search."),
        ("num_samples", settings.num_samples >= 1, "be at least 1", "Set 1."),
        ("num_top_scores", 0 <= tops <= MOST_TOP_SCORES, "be between 0 and 100", "Set 5, say."),
        ("min_new_tokens", settings.min_new_tokens >= 0, "be 0 or more", "Set 0."),
        ("max_new_tokens", max_new_tokens >= 1, "be at least 1", "Set 64, say."),
    ]
    bounds = [("length_penalty", LARGEST_PENALTY, "Set 1.0.")]
    bounds += [(name, LARGEST_SHIFT, "Set 0.5, say.") for name in PENALTIES]
    rules += [
        (name, abs(values[name]) <= most, f"be within ±{most}", remedy)
        for name, most, remedy in bounds
    ]
    for name, holds, rule, remedy in rules:
        if not holds:
            yield f"`{spelled[name]}` must {rule}, but is {values[name]}. {remedy}"


def wrong_tokens(settings: Settings, spelled: Mapping[str, str], vocab_size: int) -> Iterator[str]:
    """What is wrong with lists of tokens."""
    biased = [token for token, _ in settings.logit_bias]
    for name, tokens in (("logit_bias", biased), ("sentence_ends", settings.sentence_ends)):
        wrong = [token for token in tokens if not 0 <= token < vocab_size]
        if wrong:
            yield (
                f"`{spelled[name]}` must hold token ids from 0 to {vocab_size - 1}, but holds "
                f"{wrong[0]}. Leave it out."
            )
    wild = [bias for _, bias in settings.logit_bias if not abs(bias) <= LARGEST_SHIFT]
    if wild:
        yield (
            f"`{spelled['logit_bias']}` must add numbers within ±{LARGEST_SHIFT}, but adds "
            f"{wild[0]}. Set -{LARGEST_SHIFT} to keep a token out."
        )
    twice = [token for token, count in Counter(biased).items() if count > 1]
    if twice:
        yield (
            f"`{spelled['logit_bias']}` must hold a token once, but holds {twice[0]} more often. "
            "Set one number for it."
        )


def contradictions(
    settings: Settings, max_new_tokens: int, spelled: Mapping[str, str], vocab_size: int
) -> Iterator[str]:
    """What does not go together."""
    if 1 <= max_new_tokens < settings.min_new_tokens:
        yield (
            f"`{spelled['min_new_tokens']}` must be at most `{spelled['max_new_tokens']}` "
            f"({max_new_tokens}), but is {settings.min_new_tokens}. Set either."
        )
    if settings.num_top_scores and not settings.with_scores:
        yield (
            f"`{spelled['num_top_scores']}` must be 0 where no scores are asked for, but is "
            f"{settings.num_top_scores}. Set either."
        )
    is_searched = not (settings.is_greedy or settings.is_cut or settings.is_shifted)
    if settings.beam > 1 and (
        settings.num_samples > 1 or settings.num_top_scores or not is_searched
    ):
        yield (
            f"`{spelled['beam']}` must be 1 when sampling, greedy, penalties, bias or top scores are "
            f"asked for, but is {settings.beam}. Leave these out to search."
        )
    elif settings.num_samples > 1 and settings.is_greedy:
        yield (
            f"`{spelled['num_samples']}` must be 1 at temperature 0, where all samples are equal, "
            f"but is {settings.num_samples}. Set `{spelled['temperature']}` above 0."
        )
    if settings.beam >= vocab_size:
        yield (
            f"`{spelled['beam']}` must be below the vocabulary's {vocab_size} tokens, but is "
            f"{settings.beam}. Set 5, say."
        )
