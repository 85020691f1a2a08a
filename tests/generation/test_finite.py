"""Logits that are not finite end a generation in one sentence; with finite ones no step takes padding."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.generator import Generator
from metaseq_plugin.generation.sampling import LOOKS
from metaseq_plugin.generation.settings import Settings
from metaseq_plugin.models.opt import OPTLanguageModel
from tests.generation.sampled import sampler
from tests.opt_models import PAD, TINY, decoder, dictionary

EOS = 2
WAYS = {
    "greedy": Settings(temperature=0.0),
    "greedy without scores": Settings(temperature=0.0, with_scores=False),
    "samples": Settings(seed=1, num_samples=2),
    "samples without scores": Settings(seed=1, with_scores=False),
    "top-k": Settings(seed=1, top_k=3, with_scores=False),
    "top-p": Settings(seed=1, top_p=0.9, with_scores=False),
    "beam": Settings(beam=2),
    "prompt scores": Settings(temperature=0.0, with_prompt_scores=True),
}


def spoiled(number: float, dtype: torch.dtype = torch.float32, token: int = 7) -> Generator:
    """A generator whose model has ``number`` for the vector of ``token``, and so for its logit."""
    model = OPTLanguageModel(decoder(**TINY)).to(dtype)
    model.decoder.embed_tokens.weight.data[token] = number
    return Generator([model], dictionary())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_choosing_takes_them_for_text(way: str, number: float) -> None:
    with pytest.raises(UserError, match="logits must be finite, but in float32 some are NaN"):
        spoiled(number).generate([[EOS, 5], [EOS, 7]], [4, 4], WAYS[way])


def test_scores_are_refused() -> None:
    machine = spoiled(float("nan"))
    with pytest.raises(UserError, match=r"in float32 .* Use another checkpoint"):
        machine.score([[EOS, 5, 6], [EOS, 7, 5]])


def test_the_data_type_is_named_where_it_is_the_reason() -> None:
    model = OPTLanguageModel(decoder(**TINY))
    model.decoder.layer_norm.weight.data *= 1e5  # type: ignore[union-attr]
    machine = Generator([model], dictionary())
    before = machine.score([[EOS, 5, 6]])[0].scores
    assert len(before) == 2
    assert all(map(math.isfinite, before))
    model.to(torch.bfloat16)
    machine.score([[EOS, 5, 6]])
    model.to(torch.float16)
    with pytest.raises(UserError, match=r"in float16 .* Set `dtype` bfloat16 or float32"):
        machine.score([[EOS, 5, 6]])
    with pytest.raises(UserError, match=r"in float16 .*leave --fp16 out"):
        machine.generate([[EOS, 5, 6]], [1], WAYS["greedy"])


@st.composite
def ways(draw: st.DrawFn) -> Settings:
    return Settings(
        temperature=draw(st.sampled_from([0.0, 1e-5, 0.3, 1.0, 50.0])),
        top_k=draw(st.integers(0, 12)),
        top_p=draw(st.sampled_from([0.0, 0.3, 0.999999, 1.0])),
        top_p_decay=draw(st.sampled_from([1.0, 0.5])),
        presence_penalty=draw(st.sampled_from([0.0, -100.0, 100.0])),
        logit_bias=draw(st.sampled_from([(), ((0, 100.0), (2, -100.0))])),
        with_scores=draw(st.booleans()),
        num_top_scores=draw(st.integers(0, 2)),
    )


@given(
    way=ways(),
    logits=st.lists(st.floats(-65504, 65504, width=32), min_size=3, max_size=10),
    uniform=st.sampled_from([0.0, 0.5, 1 - 2**-24]),
    is_wide=st.booleans(),
)
@examples(deadline=None, max_examples=300)
def test_padding_is_never_taken_and_finite_logits_give_finite_scores(
    way: Settings, logits: list[float], uniform: float, is_wide: bool
) -> None:
    """However extreme finite logits are, and though padding's is the largest."""
    row = torch.tensor([logits])
    if is_wide:  # beyond what top-p looks at first
        row = torch.cat([row, torch.full((1, 2 * LOOKS[-1]), -60_000.0)], 1)
    row[0, PAD] = row.max()
    choice = sampler([way], torch.full((1, 3), uniform), row.size(1)).choose(row)
    assert choice.tokens.item() != PAD
    assert bool(choice.scores.isfinite().all())
    assert bool(choice.top_scores.isfinite().all())


@pytest.mark.parametrize("settings", [WAYS["beam"], WAYS["samples"], WAYS["greedy"]])
def test_padding_that_the_model_likes_best_is_never_written(settings: Settings) -> None:
    model = OPTLanguageModel(decoder(**TINY))
    weight: Any = model.decoder.embed_tokens.weight
    weight.data[PAD] = 30 * model.decoder(torch.tensor([[EOS]]), features_only=True)[0][0, -1]
    assert int(model.decoder(torch.tensor([[EOS]]))[0][0, -1].argmax()) == PAD
    found = Generator([model], dictionary()).generate([[EOS]] * 4, [9] * 4, settings)
    assert all(PAD not in h.tokens for c in found for h in c.hypotheses)


@pytest.mark.parametrize("settings", [WAYS["samples"], WAYS["top-k"], WAYS["prompt scores"]])
def test_padding_that_overflows_reaches_no_prompt(settings: Settings) -> None:
    """A shorter prompt gets what it gets alone, though the padding behind it is too large to compute with."""
    machine = spoiled(1e20, token=PAD)
    prompts = [[EOS, 5, 6], [EOS, *[7] * 9]]
    (alone,) = machine.generate(prompts[:1], [5], settings)
    found = machine.generate(prompts, [5, 5], settings)[0]
    assert found.prompt_scores == pytest.approx(alone.prompt_scores, rel=1e-5)
    for one, other in zip(found.hypotheses, alone.hypotheses, strict=True):
        assert one.tokens == other.tokens
        assert one.scores == pytest.approx(other.scores, rel=1e-5)
