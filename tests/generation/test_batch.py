"""Rows that join and leave at any step get what they would get alone, each by its own settings."""

from itertools import product
from typing import Any, NamedTuple, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metaseq_plugin.generation.batch import Batch, Request, Row
from metaseq_plugin.generation.decoding import PASS_TOKENS, passes
from metaseq_plugin.generation.settings import Settings
from metaseq_plugin.generation.stopping import Watch
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.modules import cached_attention, kv_cache
from metaseq_plugin.modules.kv_cache import KVCache
from tests.cached_reading import spoil
from tests.generation.test_generator import EOS, GREEDY, random_prompts, tiny_model
from tests.opt_models import KINDS, PAD

VOCAB_SIZE = 24
MODELS = {kind: tiny_model(VOCAB_SIZE, 0.2, kind).eval() for kind in KINDS}
SETTINGS = [
    GREEDY,
    Settings(temperature=0.0, min_new_tokens=6, with_scores=False),
    Settings(seed=1),
    Settings(seed=2, min_new_tokens=9),
    Settings(seed=3, num_samples=3),
    Settings(seed=4, temperature=0.6, top_k=7, with_prompt_scores=True),
    Settings(seed=5, temperature=1.4, top_p=0.8, with_scores=False),
    Settings(seed=6, frequency_penalty=1.0, prompt_presence_penalty=0.7, num_top_scores=3),
    Settings(temperature=0.0, presence_penalty=1.5, min_new_tokens=8, num_top_scores=1),
    Settings(seed=7, top_p=0.9, top_p_decay=0.8, sentence_ends=(5, 9, 11), num_samples=2),
    Settings(seed=8, top_k=3, logit_bias=((4, 2.0), (7, -100.0)), prompt_frequency_penalty=-0.5),
    Settings(
        seed=9, temperature=1.2, top_p_decay=0.9, presence_penalty=0.5, frequency_penalty=-0.2,
        logit_bias=((5, 1.0),), sentence_ends=(8,), num_top_scores=2, with_prompt_scores=True,
    ),
]  # fmt: skip


def empty(kind: str, patience: int = 1) -> Batch:
    """Asked every ``patience`` steps what it has chosen, as an accelerator's is."""
    batch = Batch([MODELS[kind]], PAD, EOS)
    batch.patience = patience
    return batch


def finish(batch: Batch) -> None:
    while batch.rows:
        batch.step()


def alone(kind: str, request: Request) -> list[Row]:
    batch = empty(kind)
    rows = batch.admit([request])
    finish(batch)
    return rows


def assert_as_alone(kind: str, rows: list[Row]) -> None:
    """``rows`` are one request's; cancelled ones have the beginning."""
    for row, expected in zip(rows, alone(kind, rows[0].request), strict=True):
        assert row.finish_reason is not None
        count = len(row.tokens)
        assert row.tokens == expected.tokens[:count]
        if row.finish_reason != "cancelled":
            assert (count, row.finish_reason) == (len(expected.tokens), expected.finish_reason)
        assert row.scores == pytest.approx(expected.scores[: len(row.scores)], abs=1e-5)
        assert len(row.scores) == (count if row.request.settings.with_scores else 0)
        assert row.prompt_scores == pytest.approx(expected.prompt_scores, abs=1e-5)
        found, wanted = (r.prompt_top_scores + r.top_scores for r in (row, expected))
        for top, as_alone in zip(found, wanted):
            assert len(top) == row.request.settings.num_top_scores
            assert [s for _, s in top] == pytest.approx([s for _, s in as_alone], abs=1e-5)
        places = count + len(row.prompt_scores)
        assert len(found) == (places if row.request.settings.num_top_scores else 0)


def requests(count: int, longest: int, seed: int, choice: Settings) -> list[Request]:
    prompts = random_prompts(count, longest, VOCAB_SIZE, seed)
    return [Request(prompt, 8 + 3 * i, choice) for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("longest", [(4, 18), (18, 4)], ids=["longer", "shorter"])
@pytest.mark.parametrize("choice", SETTINGS[:4], ids=["greedy", "early", "sampled", "blocked"])
def test_admitted_in_the_middle_as_alone(
    kind: str, longest: tuple[int, int], choice: Settings
) -> None:
    batch = empty(kind)
    first = batch.admit(requests(3, longest[0], 1, choice))
    for _ in range(4):
        batch.step()
    second = batch.admit(requests(4, longest[1], 2, choice))
    batch.step()
    third = batch.admit(requests(1, 9, 3, choice))
    finish(batch)
    for row in first + second + third:
        assert_as_alone(kind, [row])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patience", [1, 5])
def test_every_row_by_its_own_settings(kind: str, patience: int) -> None:
    batch = empty(kind, patience)
    wanted = [
        Request(prompt, 20, choice)
        for prompt, choice in zip(random_prompts(12, 12, VOCAB_SIZE), SETTINGS, strict=True)
    ]
    rows = batch.admit(wanted)
    assert len(batch.rows) == 15
    finish(batch)
    assert [row.request for row in rows] == [
        r for r in wanted for _ in range(r.settings.num_samples)
    ]
    for request in wanted:
        assert_as_alone(kind, [row for row in rows if row.request is request])


def test_the_same_seed_alone_and_among_sixteen() -> None:
    """To the token, every way of choosing in one batch, half of them joining when the others are under way."""
    wanted = [
        Request(prompt, 16, SETTINGS[number % len(SETTINGS)])
        for number, prompt in enumerate(random_prompts(16, 12, VOCAB_SIZE, seed=4))
    ]
    batch = empty("pre-norm")
    rows = batch.admit(wanted[:8])
    batch.step()
    rows += batch.admit(wanted[8:])
    finish(batch)
    for request in wanted:
        assert_as_alone("pre-norm", [row for row in rows if row.request is request])


def test_a_mix_of_settings_is_chosen_for_in_few_calls() -> None:
    """Greedy rows, rows of all tokens and rows of the likeliest, however many settings there are."""
    batch = empty("pre-norm")
    for number in range(4):
        batch.admit(requests(2, 9, number, Settings(seed=number, temperature=0.5 + number)))
        batch.admit(requests(1, 9, number, Settings(seed=number, top_p=0.5 + number / 10)))
        batch.admit(requests(1, 9, number, GREEDY))
    found = [place.tolist() for _, place in batch.sampler.groups]
    assert found == [[0, 1, 4, 5, 8, 9, 12, 13], [2, 6, 10, 14], [3, 7, 11, 15]]


@pytest.mark.parametrize("streamed", [True, False])
def test_step_tells_what_every_row_got(streamed: bool) -> None:
    batch = empty("pre-norm", patience=3)
    wanted = [request._replace(streamed=streamed) for request in requests(3, 9, 1, SETTINGS[2])]
    rows = batch.admit(wanted)
    told: dict[int, list[tuple[int, object]]] = {id(row): [] for row in rows}
    counts = []
    while batch.rows:
        going = sum(row.finish_reason is None for row in rows)
        news = batch.step()
        counts.append(len(news))
        if streamed:
            assert counts[-1] == going
        for new in news:
            told[id(new.row)].append((new.token, new.score))
    assert (0 in counts) is not streamed
    for row in rows:
        assert told[id(row)] == list(zip(row.tokens, row.scores))


@pytest.mark.parametrize("patience", [1, 4])
def test_cancelled_rows_leave(patience: int) -> None:
    batch = empty("pre-norm", patience)
    choice = Settings(temperature=0.0, min_new_tokens=20)
    rows = batch.admit([Request([EOS, 5 + i], 20, choice) for i in range(4)])
    batch.step()
    batch.step()
    batch.cancel(rows[1])
    batch.cancel(rows[2])
    for _ in range(patience):
        batch.step()
    assert batch.rows == [rows[0], rows[3]]
    assert all(cache.num_rows == 2 for cache in batch.decoding.caches)
    finish(batch)
    batch.cancel(rows[0])  # it has ended already
    assert [row.finish_reason for row in rows] == ["length", "cancelled", "cancelled", "length"]
    for row in rows:
        assert_as_alone("pre-norm", [row])
    assert all(cache.buckets == [] for cache in batch.decoding.caches)


@pytest.mark.parametrize("patience", [1, 4])
def test_memory_is_what_the_rows_under_way_cost(
    patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is never empty holds no more than was said, nor more and more."""
    monkeypatch.setattr(kv_cache, "SMALLEST_ROOM", 8)
    batch = Batch([MODELS["pre-norm"]], PAD, EOS, max_tokens=100)
    batch.patience = patience
    choice = Settings(temperature=0.0, min_new_tokens=24)
    (cache,) = batch.decoding.caches
    held = set()
    under_way: list[Row] = []
    for number in range(60):
        request = Request([EOS] * (1 + number % 11), 3 + number % 23, choice)
        costs = [batch.cost(row.request) for row in under_way]
        if sum(costs) + batch.cost(request) <= 100:
            under_way += batch.admit([request])
        batch.step()
        under_way = [row for row in under_way if row.finish_reason is None]
        tensors = [t for b in cache.buckets for t in (*b.keys, *b.values)]
        held.add(cache.num_tokens)
        assert sum(t.nbytes for t in tensors) == cache.num_tokens * batch.decoding.bytes_per_token
    assert batch.decoding.bytes_per_token == 2 * 3 * 32 * 4  # layers, dim, fp32
    assert 80 < max(held) <= 100
    assert batch.cost(Request([EOS] * 5, 4, Settings(num_samples=3))) == 3 * 8
    assert batch.cost(Request([EOS] * 5, 1000, GREEDY)) == 40  # the model reads no more


def test_prompts_that_cannot_be_scored_leave_the_others_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kv_cache, "SMALLEST_ROOM", 4)
    batch = empty("pre-norm")
    rows = batch.admit(requests(4, 12, 1, SETTINGS[3]))
    batch.step()
    with monkeypatch.context() as broken:
        broken.setattr(KVCache, "repeat", None)
        with pytest.raises(TypeError):
            batch.admit(requests(2, 9, 2, SETTINGS[4]))
    later = batch.admit(requests(1, 9, 3, GREEDY))
    finish(batch)
    for row in rows + later:
        assert_as_alone("pre-norm", [row])


@pytest.mark.parametrize("room", [4, 64])
@pytest.mark.parametrize("fails_at", [1, 4, 8, 12])
def test_memory_that_is_not_to_be_had_leaves_the_others_as_they_were(
    room: int, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it runs out: where a bucket gets more slots, or a new one its memory; in whichever model."""
    monkeypatch.setattr(kv_cache, "SMALLEST_ROOM", room)
    models: list[OPTLanguageModel] = [tiny_model(VOCAB_SIZE, std).eval() for std in (0.2, 0.3)]
    batch, alone_batch = Batch(models, PAD, EOS), Batch(models, PAD, EOS)
    rows = batch.admit(requests(2, 9, 1, GREEDY))
    batch.step()
    new_empty, left = torch.Tensor.new_empty, iter(range(fails_at, 0, -1))

    def scarce(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if next(left, 1) == 1:
            raise torch.OutOfMemoryError
        return new_empty(tensor, *args, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(torch.Tensor, "new_empty", scarce)
        with pytest.raises(torch.OutOfMemoryError):
            batch.admit(requests(3, 20, 2, GREEDY))
    rows += batch.admit(requests(3, 20, 2, GREEDY))
    finish(batch)
    expected = [alone_batch.admit([row.request])[0] for row in rows]
    finish(alone_batch)
    assert [row.tokens for row in rows] == [row.tokens for row in expected]


class Action(NamedTuple):
    """Of a schedule: admit ``wanted``, cancel row ``cancelled`` of those there are, take ``steps``."""

    wanted: list[Request]
    cancelled: int
    steps: int


def every_fifth(prompt: Sequence[int], min_new_tokens: int) -> Watch:
    return lambda token: token % 5 == 0


REQUESTS = st.builds(
    Request,
    prompt=st.lists(st.integers(4, VOCAB_SIZE - 1), max_size=24).map(lambda ids: [EOS, *ids]),
    limit=st.integers(1, 25),
    settings=st.sampled_from(SETTINGS),
    repeat=st.integers(0, 1),
    stop=st.sampled_from([None, None, every_fifth]),
    streamed=st.booleans(),
)
ACTIONS = st.builds(Action, st.lists(REQUESTS, max_size=3), st.integers(0, 30), st.integers(0, 12))


@pytest.mark.slow
@given(
    kind=st.sampled_from(sorted(KINDS)),
    patience=st.sampled_from([1, 3, 8]),
    schedule=st.lists(ACTIONS, min_size=1, max_size=6),
    smallest_room=st.sampled_from([4, kv_cache.SMALLEST_ROOM]),
)
@settings(deadline=None, max_examples=60)
def test_any_schedule_gives_what_each_request_gives_alone(
    kind: str, patience: int, schedule: list[Action], smallest_room: int
) -> None:
    """Whatever else lies in the cache: all that no row calls its own is NaN before each step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "SMALLEST_ROOM", smallest_room)
        patch.setattr(cached_attention, "COLUMN_STEP", 16 if smallest_room > 4 else 3)
        admitted = carry_out(empty(kind, patience), schedule)
    for rows_of_one in admitted:
        assert_as_alone(kind, rows_of_one)


def carry_out(batch: Batch, schedule: list[Action]) -> list[list[Row]]:
    """The rows of every request of ``schedule``, all finished."""

    def step() -> None:
        for cache in batch.decoding.caches:
            spoil(cache)
        batch.step()

    admitted: list[list[Row]] = []
    for action in schedule:
        if action.wanted:
            rows = iter(batch.admit(action.wanted))
            for request in action.wanted:
                admitted.append([next(rows) for _ in range(request.settings.num_samples)])
        everyone = [row for rows_of_one in admitted for row in rows_of_one]
        if action.cancelled < len(everyone):
            batch.cancel(everyone[action.cancelled])
        for _ in range(action.steps):
            if batch.rows:
                step()
    while batch.rows:
        step()
    return admitted


def test_several_models_admit_together() -> None:
    models: list[OPTLanguageModel] = [tiny_model(VOCAB_SIZE, std).eval() for std in (0.2, 0.3)]
    found = []
    for steps in (0, 3):
        batch = Batch(models, PAD, EOS)
        first = batch.admit(requests(1, 9, 1, GREEDY))
        for _ in range(steps):
            batch.step()
        found.append(first + batch.admit(requests(2, 9, 2, GREEDY)))
        finish(batch)
    for one, other in zip(*found):
        assert one.tokens == other.tokens
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
    assert torch.is_inference_mode_enabled() is False


@pytest.mark.parametrize(
    ("lengths", "cost", "expected"),
    [
        ([5, 900, 3, 1000, 4], 32, [[3], [1], [0, 4, 2]]),  # 100 tokens of padding cost more
        ([5, 900, 3, 1000, 4], 128, [[3, 1], [0, 4, 2]]),
        ([60, 2, 2, 2], 32, [[0], [1, 2, 3]]),
        ([12, 2, 2, 2], 32, [[0, 1, 2, 3]]),
        ([2048, 2048, 1], 10**6, [[0, 1], [2]]),  # no more tokens than a pass takes
        ([5000, 5000], 32, [[0], [1]]),
        ([7], 32, [[0]]),
    ],
)
def test_prompts_of_similar_length_are_read_together(
    lengths: list[int], cost: int, expected: list[list[int]]
) -> None:
    assert passes(lengths, cost) == expected


@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=7), cost=st.integers(0, 2000))
@settings(deadline=None, max_examples=50)
def test_no_other_cut_of_the_prompts_takes_less_time(lengths: list[int], cost: int) -> None:
    falling = sorted(lengths, reverse=True)

    def time_of(groups: list[list[int]]) -> float:
        padded = [max(group) * len(group) for group in groups]
        is_allowed = all(n <= PASS_TOKENS or len(g) == 1 for n, g in zip(padded, groups))
        return sum(padded) + cost * len(groups) if is_allowed else float("inf")

    times = []
    for ends in product([False, True], repeat=len(falling) - 1):
        groups = [[falling[0]]]
        for length, is_end in zip(falling[1:], ends):
            if is_end:
                groups.append([])
            groups[-1].append(length)
        times.append(time_of(groups))
    found = [[lengths[index] for index in group] for group in passes(lengths, cost)]
    assert [length for group in found for length in group] == falling
    assert time_of(found) == min(times)
