"""Impossible settings are refused, all in one message."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.settings import PENALTIES, Settings, check_settings

SPELLED = {"max_new_tokens": "--most", **{f.name: f"--{f.name}" for f in fields(Settings)}}
NAN, INF = float("nan"), float("inf")
WRONG: list[tuple[dict[str, Any], str]] = [
    *(({name: value}, f"`--{name}` must be within ±100, but is {value}. Set 0.5, say.")
      for name in PENALTIES for value in (100.5, -101, NAN, INF)),
    ({"presence_penalty": "1"}, "`--presence_penalty` must be a number, but is '1'. Set 0.9, say."),
    ({"frequency_penalty": True}, "`--frequency_penalty` must be a number, but is True. Set 0.9, say."),
    ({"temperature": NAN}, "`--temperature` must be 0 (greedy) or more, but is nan. Set 1.0 to sample."),
    ({"temperature": INF}, "`--temperature` must be 0 (greedy) or more, but is inf. Set 1.0 to sample."),
    ({"top_p": NAN}, "`--top_p` must be between 0 and 1, but is nan. Set 0.9, say."),
    ({"top_p_decay": -1.0}, "`--top_p_decay` must be between 0 and 1, but is -1.0. Set 0.9, say."),
    ({"top_p_decay": NAN}, "`--top_p_decay` must be between 0 and 1, but is nan. Set 0.9, say."),
    ({"top_p_floor": 1.5}, "`--top_p_floor` must be between 0 and 1, but is 1.5. Set 0.3, say."),
    ({"num_top_scores": -1}, "`--num_top_scores` must be between 0 and 100, but is -1. Set 5, say."),
    ({"num_top_scores": 101}, "`--num_top_scores` must be between 0 and 100, but is 101. Set 5, say."),
    ({"num_top_scores": 2, "with_scores": False},
     "`--num_top_scores` must be 0 where no scores are asked for, but is 2. Set either."),
    ({"sentence_ends": [4]}, "`--sentence_ends` must be a tuple of token ids, but is [4]. Set (4,), say."),
    ({"sentence_ends": (4, 50)},
     "`--sentence_ends` must hold token ids from 0 to 49, but holds 50. Leave it out."),
    ({"logit_bias": {4: 1.0}}, "`--logit_bias` must be a tuple of pairs of a token id and a number, "
     "but is {4: 1.0}. Set ((4, -100.0),), say."),
    ({"logit_bias": ((4, None),)}, "`--logit_bias` must be a tuple of pairs of a token id and a number, "
     "but is ((4, None),). Set ((4, -100.0),), say."),
    ({"logit_bias": ((-1, 1.0),)},
     "`--logit_bias` must hold token ids from 0 to 49, but holds -1. Leave it out."),
    ({"logit_bias": ((4, 101.0),)},
     "`--logit_bias` must add numbers within ±100, but adds 101.0. Set -100 to keep a token out."),
    ({"logit_bias": ((4, NAN),)},
     "`--logit_bias` must add numbers within ±100, but adds nan. Set -100 to keep a token out."),
    ({"logit_bias": ((4, 1.0), (4, 2.0))},
     "`--logit_bias` must hold a token once, but holds 4 more often. Set one number for it."),
]  # fmt: skip
SAMPLING: list[dict[str, Any]] = [
    *({name: 0.5} for name in PENALTIES),
    {"logit_bias": ((4, 1.0),)},
    {"top_p_decay": 0.9},
    {"num_top_scores": 2},
    {"top_k": 3},
    {"num_samples": 2},
]


def check(**values: Any) -> None:
    check_settings(Settings(**values), 64, SPELLED, vocab_size=50)


@pytest.mark.parametrize(("values", "message"), WRONG, ids=lambda part: str(part)[:60])
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        check(**values)
    assert str(refusal.value) == message


@pytest.mark.parametrize("values", SAMPLING, ids=str)
def test_beam_search_refuses_what_it_has_no_part_for(values: dict[str, Any]) -> None:
    check(**values)
    with pytest.raises(UserError) as refusal:
        check(beam=4, **values)
    assert str(refusal.value) == (
        "`--beam` must be 1 when sampling, greedy, penalties, bias or top scores are asked for, "
        "but is 4. Leave these out to search."
    )


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(UserError) as refusal:
        check(top_p_decay=2.0, presence_penalty=NAN, sentence_ends=(99,), min_new_tokens=65)
    for name in ("top_p_decay", "presence_penalty", "sentence_ends", "min_new_tokens"):
        assert f"`--{name}` must" in str(refusal.value)


@given(
    bias=st.dictionaries(st.integers(0, 49), st.floats(-100, 100), max_size=50),
    penalties=st.lists(st.floats(-100, 100), min_size=4, max_size=4),
    decay=st.floats(0, 1),
    floor=st.floats(0, 1),
    ends=st.lists(st.integers(0, 49)),
    tops=st.integers(0, 100),
)
def test_possible_settings_pass(
    bias: dict[int, float],
    penalties: list[float],
    decay: float,
    floor: float,
    ends: list[int],
    tops: int,
) -> None:
    check(
        logit_bias=tuple(bias.items()), top_p_decay=decay, top_p_floor=floor,
        sentence_ends=tuple(ends), num_top_scores=tops, **dict(zip(PENALTIES, penalties)),
    )  # fmt: skip
