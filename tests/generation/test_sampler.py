"""Tokens are drawn from the stated distribution, whatever bends it; scores are the model's own."""

from typing import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from metaseq_plugin.generation.batch import Batch, Request
from metaseq_plugin.generation.sampler import Choice, Sampler
from metaseq_plugin.generation.sampling import LOOKS, uniform_numbers
from metaseq_plugin.generation.settings import Settings
from tests.generation.sampled import EOS, distribution, sampler
from tests.generation.test_generator import log_probs, tiny_model
from tests.opt_models import PAD

DRAWS = 100_000
LOGITS = [0.5, 2.5, -0.4, 1.0, 0.0, 1.6, 0.3, 1.2, -0.5, 0.8, 0.1, 0.6]  # padding's is the largest
VOCAB = len(LOGITS)
PROMPT = (EOS, 7, 3, 7, 7)
NEW = (5, 9, 5)
BENT = {
    "plain": Settings(),
    "cold": Settings(temperature=0.6),
    "hot": Settings(temperature=1.8),
    "top-k": Settings(top_k=4),
    "top-p": Settings(top_p=0.72),
    "top-k and top-p": Settings(top_k=7, top_p=0.7, temperature=1.3),
    "decayed": Settings(top_p=0.95, top_p_decay=0.85),
    "decayed from all": Settings(top_p_decay=0.85),
    "decayed to the floor": Settings(top_p=0.95, top_p_decay=0.5, top_p_floor=0.55),
    "decayed behind an end": Settings(top_p=0.95, top_p_decay=0.7, sentence_ends=(4, 9)),
    "restarted": Settings(top_p=0.95, top_p_decay=0.5, sentence_ends=(5,)),
    "presence": Settings(presence_penalty=0.9),
    "frequency": Settings(frequency_penalty=0.6),
    "encouraged": Settings(presence_penalty=-0.4, frequency_penalty=-0.3),
    "presence in the prompt": Settings(prompt_presence_penalty=0.9),
    "frequency in the prompt": Settings(prompt_frequency_penalty=0.6),
    "bias": Settings(logit_bias=((5, -1.5), (8, 2.0), (6, -100.0))),
    "early end": Settings(min_new_tokens=4),
    "all": Settings(
        min_new_tokens=4, temperature=1.4, top_k=9, top_p=0.97, top_p_decay=0.95,
        sentence_ends=(9,), presence_penalty=0.2, frequency_penalty=0.5,
        prompt_presence_penalty=0.3, prompt_frequency_penalty=0.1, logit_bias=((8, 1.0),),
    ),
}  # fmt: skip


def following(drawn: Sampler, logits: Sequence[float], new: Sequence[int]) -> Choice:
    """The next choice from ``logits``, once every row has got ``new``."""
    rows = len(drawn.settings)
    for token in new:
        forced = torch.full((rows, len(logits)), -1e4)
        forced[:, token] = 1e4
        assert bool((drawn.choose(forced).tokens == token).all())
    return drawn.choose(torch.tensor([logits]).repeat(rows, 1))


def test_uncertainty_of_chi_square() -> None:
    """The probability of a larger one: 5% at 18.307 and 10 degrees of freedom, as tables have it."""
    assert chance(18.307, 10) == pytest.approx(0.05, abs=1e-5)


def chance(chi_square: float, degrees: int) -> float:
    halves = torch.tensor([degrees / 2, chi_square / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(halves[0], halves[1]))


@pytest.fixture(scope="module")
def numbers() -> Tensor:
    return uniform_numbers(20, PROMPT, 0, DRAWS, len(NEW) + 1)


@pytest.mark.parametrize("name", BENT)
def test_draws_follow_the_stated_distribution(name: str, numbers: Tensor) -> None:
    settings = BENT[name]
    drawn = sampler([settings] * DRAWS, numbers, VOCAB, PROMPT)
    counts = following(drawn, LOGITS, NEW).tokens.bincount(minlength=VOCAB).tolist()
    expected = distribution(LOGITS, settings, PROMPT, NEW)
    assert {token for token, count in enumerate(counts) if count} <= set(expected)
    cells = {token: DRAWS * prob for token, prob in expected.items() if DRAWS * prob > 1e-9}
    assert min(cells.values()) > 5
    chi_square = sum((counts[token] - wanted) ** 2 / wanted for token, wanted in cells.items())
    assert len(cells) > 1
    assert chance(chi_square, len(cells) - 1) > 1e-3


@pytest.mark.parametrize("name", sorted(set(BENT) - {"plain"}))
def test_every_rule_bends_the_distribution(name: str) -> None:
    """So that the test above would see a rule that does nothing."""
    plain, bent = (distribution(LOGITS, BENT[n], PROMPT, NEW) for n in ("plain", name))
    cells = [(DRAWS * prob, DRAWS * bent.get(token, 0.0)) for token, prob in plain.items()]
    assert chance(sum((b - a) ** 2 / a for a, b in cells), len(cells) - 1) < 1e-9


@pytest.mark.parametrize("name", BENT)
def test_greedy_takes_the_likeliest_of_the_bent_logits(name: str) -> None:
    bent = {**vars(BENT[name]), "temperature": 0.0, "top_k": 0, "top_p": 1.0, "top_p_decay": 1.0}
    drawn = sampler([Settings(**bent)], torch.empty(1, 0), VOCAB, PROMPT)
    found = following(drawn, LOGITS, NEW)
    warm = Settings(**{**bent, "temperature": 1.0})
    expected = distribution(LOGITS, warm, PROMPT, NEW)
    assert found.tokens.item() == max(expected, key=lambda token: expected[token])
    own = torch.tensor(LOGITS).log_softmax(-1)
    assert float(found.scores) == pytest.approx(float(own[found.tokens]), abs=1e-6)


@pytest.mark.parametrize("name", BENT)
def test_scores_and_alternatives_are_of_the_models_own_distribution(name: str) -> None:
    """At the temperature, before anything is added, blocked or truncated."""
    bent = {**vars(BENT[name]), "num_top_scores": 5}
    drawn = sampler([Settings(**bent)] * 40, uniform_numbers(3, PROMPT, 0, 40, 4), VOCAB, PROMPT)
    found = following(drawn, LOGITS, NEW)
    own = (torch.tensor(LOGITS) / BENT[name].temperature).log_softmax(-1)
    torch.testing.assert_close(found.scores, own[found.tokens])
    torch.testing.assert_close(found.top_scores, own.topk(5).values.expand(40, -1))
    assert torch.equal(found.top_tokens, own.topk(5).indices.expand(40, -1))


def test_without_scores_a_choice_tells_how_far_it_is_below_the_best() -> None:
    drawn = sampler([Settings(with_scores=False)], torch.tensor([[0.999]]), 4)
    found = drawn.choose(torch.tensor([[1.0, 3.0, 2.0, 0.5]]))
    assert found.tokens.tolist() == [3]
    assert found.scores.tolist() == [-2.5]
    assert found.top_tokens.shape == (1, 0)


@st.composite
def mixes(draw: st.DrawFn) -> list[Settings]:
    some = st.sampled_from([0.0, 0.0, -1.0, 0.7, 3.0])
    one = st.builds(
        Settings,
        temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        top_k=st.sampled_from([0, 0, 1, 3, 90]),
        top_p=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
        top_p_decay=st.sampled_from([1.0, 1.0, 0.8]),
        sentence_ends=st.sampled_from([(), (4,), (5, 6, 7)]),
        presence_penalty=some,
        frequency_penalty=some,
        prompt_presence_penalty=some,
        prompt_frequency_penalty=some,
        logit_bias=st.sampled_from([(), ((4, 3.0), (6, -100.0))]),
        min_new_tokens=st.integers(0, 4),
        num_top_scores=st.sampled_from([0, 2]),
        with_scores=st.booleans(),
    )
    return draw(st.lists(one, min_size=1, max_size=16))


@given(
    mix=mixes(),
    vocab=st.sampled_from([12, 2 * LOOKS[0], LOOKS[-1] + 300]),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    seed=st.integers(0, 1000),
    leaving=st.sets(st.integers(0, 15)),
)
@examples(deadline=None, max_examples=80)
def test_a_row_takes_to_the_bit_what_it_takes_alone(
    mix: list[Settings], vocab: int, spread: float, seed: int, leaving: set[int]
) -> None:
    """Half of the rows join after two steps, some leave after four; no step takes what is barred."""
    steps, rows = 7, len(mix)
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, steps, vocab, generator=random) * spread
    numbers = torch.rand(rows, steps, generator=random)
    prompts = [[EOS, *range(4, 4 + row % 5)] for row in range(rows)]
    alone = []
    for row, choice in enumerate(mix):
        single = Sampler(PAD, EOS, torch.device("cpu"))
        single.join([choice], [prompts[row]], [numbers[row : row + 1]], vocab)
        alone.append([single.choose(logits[row : row + 1, i].clone()) for i in range(steps)])

    together = Sampler(PAD, EOS, torch.device("cpu"))
    taken = [0] * rows
    present: list[int] = []
    for step in range(9):
        arriving = {0: range(rows // 2), 2: range(rows // 2, rows)}.get(step, range(0))
        if arriving:
            own = [numbers[row : row + 1] for row in arriving]
            together.join([mix[r] for r in arriving], [prompts[r] for r in arriving], own, vocab)
            present += arriving
        staying = [i for i, row in enumerate(present) if taken[row] < steps]
        if step == 4:
            staying = [i for i in staying if present[i] not in leaving]
        if len(staying) < len(present):
            together.keep(staying)
            present = [present[i] for i in staying]
        if not present:
            continue
        found = together.choose(torch.stack([logits[row, taken[row]] for row in present]))
        for place, row in enumerate(present):
            expected, choice = alone[row][taken[row]], mix[row]
            token = int(found.tokens[place])
            assert token == int(expected.tokens)
            assert token != PAD
            assert token != EOS or taken[row] >= choice.min_new_tokens
            if choice.with_scores:
                assert found.scores[place] == expected.scores[0]
            most = choice.num_top_scores
            assert found.top_tokens[place, :most].tolist() == expected.top_tokens[0].tolist()
            taken[row] += 1


def test_counting_a_token_often_adds_up_exactly() -> None:
    """The sum is worked out from the count, not added to a thousand times."""
    drawn = sampler([Settings(frequency_penalty=0.1, presence_penalty=0.3)], torch.rand(1, 1), 6)
    for _ in range(1000):
        drawn.shifts.count(torch.tensor([4]))
    expected = torch.zeros(6)
    expected[4] = -(torch.tensor(0.1) * 1000 + torch.tensor(0.3))
    assert torch.equal(drawn.shifts.sums[0], expected)


def test_rows_that_ask_for_no_shift_have_no_part_in_it() -> None:
    choices = [
        Settings(),
        Settings(presence_penalty=1.0),
        Settings(),
        Settings(logit_bias=((4, 1.0),)),
    ]
    drawn = sampler(choices, torch.rand(4, 3), VOCAB)
    assert drawn.shifts.rows == [1, 3]
    assert drawn.shifts.sums.shape == (2, VOCAB)
    drawn.keep([0, 3])
    assert drawn.shifts.rows == [1]
    assert drawn.shifts.sums[0, 4] == 1
    drawn.keep([0])
    logits = torch.randn(1, VOCAB)
    assert drawn.shifts.add(logits, torch.ones(1)) is logits


def greedily(model: object, prompt: list[int], settings: Settings, count: int) -> list[int]:
    tokens: list[int] = []
    for _ in range(count):
        logits: Tensor = log_probs(model, prompt + tokens)  # type: ignore[arg-type]
        warm = Settings(**{**vars(settings), "temperature": 1.0})
        bent = distribution(logits.tolist(), warm, prompt, tokens)
        tokens.append(max(bent, key=lambda token: bent[token]))
    return tokens


def test_a_batch_tells_what_the_model_itself_finds() -> None:
    """Greedy with penalties and bias, with alternatives, prompt included, against full passes."""
    vocab = 24
    model = tiny_model(vocab, 0.3).eval()
    settings = Settings(
        temperature=0.0, min_new_tokens=12, frequency_penalty=0.8, presence_penalty=0.4,
        prompt_presence_penalty=0.5, prompt_frequency_penalty=0.2, logit_bias=((9, 1.5),),
        num_top_scores=3, with_prompt_scores=True,
    )  # fmt: skip
    prompt = [EOS, 7, 9, 7, 11]
    batch = Batch([model], PAD, EOS)
    row, plain = batch.admit(
        [Request(prompt, 12, settings), Request([EOS, 5], 12, Settings(temperature=0.0))]
    )
    told = []
    while batch.rows:
        told += [new for new in batch.step() if new.row is row]
    assert row.tokens == greedily(model, prompt, settings, 12)
    unbent = Settings(temperature=0.0, min_new_tokens=12)
    assert row.tokens != greedily(model, prompt, unbent, 12)
    assert [(new.token, new.score, new.top_scores) for new in told] == list(
        zip(row.tokens, row.scores, row.top_scores)
    )
    whole = prompt + row.tokens
    for place, top in enumerate(row.prompt_top_scores + row.top_scores):
        own = log_probs(model, whole[: place + 1])
        tokens, scores = zip(*top)
        assert list(tokens) == own.topk(3).indices.tolist()
        assert list(scores) == pytest.approx(own.topk(3).values.tolist(), abs=1e-5)
        score = (row.prompt_scores + row.scores)[place]
        assert score == pytest.approx(float(own[whole[place + 1]]), abs=1e-5)
    assert place == len(whole) - 2
    assert plain.top_scores == plain.prompt_top_scores == plain.prompt_scores == []
