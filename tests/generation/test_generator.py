"""Generation against Hugging Face, against brute force, and against itself in other batches."""

import itertools
import math
from dataclasses import replace
from typing import Any, Sequence

import pytest
import torch
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.generator import Generator, batches
from metaseq_plugin.generation.settings import Continuations, Settings
from metaseq_plugin.generation.stopping import StopRule, Watch
from metaseq_plugin.models.opt import OPTLanguageModel
from tests.opt_models import KINDS, PAD, VOCAB_SIZE, config, decoder, dictionary, hf_twin

EOS = 2
GREEDY = Settings(temperature=0.0)


def tiny_model(
    vocab_size: int = VOCAB_SIZE, std: float = 0.3, kind: str = "pre-norm", **settings: Any
) -> OPTLanguageModel:
    return OPTLanguageModel(decoder(vocab_size, std, **{**KINDS[kind], **settings}))


def random_prompts(
    count: int, longest: int, vocab_size: int = VOCAB_SIZE, seed: int = 0
) -> list[list[int]]:
    """Prompts of 1 to ``longest`` tokens, ``</s>`` first."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest, (count,), generator=random).tolist()
    return [[EOS, *torch.randint(4, vocab_size, (n,), generator=random).tolist()] for n in lengths]


def generator(model: OPTLanguageModel, *others: OPTLanguageModel) -> Generator:
    return Generator([model, *others], dictionary(len(model.output_weight)))


def log_probs(model: OPTLanguageModel, tokens: list[int]) -> Tensor:
    """What follows ``tokens``, (V,), from a full forward pass."""
    with torch.no_grad():
        return model.decoder(torch.tensor([tokens]))[0][0, -1].log_softmax(-1)


def assert_same(found: Continuations, expected: Continuations) -> None:
    assert len(found.hypotheses) == len(expected.hypotheses)
    for one, other in zip(found.hypotheses, expected.hypotheses):
        assert one.tokens == other.tokens
        assert one.finish_reason == other.finish_reason
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
    assert found.prompt_scores == pytest.approx(expected.prompt_scores, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        GREEDY,
        Settings(seed=3, num_samples=2),
        Settings(seed=3, top_k=5, top_p=0.8, temperature=1.3, min_new_tokens=4),
        Settings(beam=3, with_prompt_scores=True),
    ],
    ids=["greedy", "samples", "truncated", "beam"],
)
def test_batch_gives_what_each_prompt_gives_alone(kind: str, settings: Settings) -> None:
    model = tiny_model(24, 0.2, kind)
    machine = generator(model)
    prompts = random_prompts(9, longest=20, vocab_size=24)
    limits = [5 + 2 * i for i in range(9)]
    together = machine.generate(prompts, limits, settings)
    lengths = {len(h.tokens) for c in together for h in c.hypotheses}
    assert len(lengths) > 3  # rows end at different steps, so that they leave the batch
    for prompt, limit, found in zip(prompts, limits, together):
        assert_same(found, machine.generate([prompt], [limit], settings)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_argmax_of_full_forward_passes(kind: str) -> None:
    model = tiny_model(kind=kind)
    prompts = random_prompts(4, longest=12)
    for prompt, found in zip(prompts, generator(model).generate(prompts, [10] * 4, GREEDY)):
        (hypothesis,) = found.hypotheses
        tokens = list(prompt)
        for token, score in zip(hypothesis.tokens, hypothesis.scores):
            following = log_probs(model, tokens)
            following[PAD] = -torch.inf
            assert token == int(following.argmax())
            assert score == pytest.approx(float(following[token]), abs=1e-5)
            tokens.append(token)


@pytest.mark.parametrize(("kind", "std"), [("pre-norm", 0.4), ("350m", 0.07)])
def test_greedy_is_hugging_faces_token_for_token(kind: str, std: float) -> None:
    model = tiny_model(std=std, kind=kind)
    theirs = hf_twin(model.decoder, config(**KINDS[kind]))
    prompts = random_prompts(20, longest=16, seed=1)
    found = generator(model).generate(prompts, [24] * 20, GREEDY)
    different = set()
    for prompt, continuations in zip(prompts, found):
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(),
            max_new_tokens=24, do_sample=False, suppress_tokens=[PAD],
        )  # fmt: skip
        tokens = continuations.hypotheses[0].tokens
        assert tokens == expected[0, len(prompt) :].tolist()
        different |= set(tokens)
    assert len(different) > 10  # not one token over and over


def every_sequence(vocab: list[int], longest: int) -> list[list[int]]:
    """All continuations: those that end with </s>, and those of full length without it."""
    found = []
    for length in range(1, longest + 1):
        for tokens in itertools.product(vocab, repeat=length):
            ended = tokens[-1] == EOS
            if EOS not in tokens[:-1] and (ended or length == longest):
                found.append(list(tokens))
    return found


@pytest.mark.parametrize(("penalty", "normalize"), [(1.0, True), (0.3, True), (1.0, False)])
def test_beam_that_holds_all_sequences_finds_the_best(penalty: float, normalize: bool) -> None:
    """Vocabulary of 8, three tokens, a beam wide enough to never drop anything."""
    model = tiny_model(vocab_size=8)
    prompt = [EOS, 4, 6]
    vocab = [token for token in range(8) if token != PAD]
    ranked = []
    for tokens in every_sequence(vocab, 3):
        scores = []
        for length in range(len(tokens)):
            following = log_probs(model, prompt + tokens[:length])
            scores.append(float(following[tokens[length]]))
        rank = sum(scores) / len(scores) ** penalty if normalize else sum(scores)
        ranked.append((rank, tokens))
    # A beam of 400 keeps 7 · 6 · 6 = 252 at most; the generator has no bound but its settings'.
    settings = Settings(beam=400, length_penalty=penalty, normalize=normalize)
    (found,) = generator(model).generate([prompt], [3], settings)
    ranked.sort(reverse=True)
    assert len(found.hypotheses) == len(ranked)
    for hypothesis, (rank, tokens) in zip(found.hypotheses[:20], ranked):
        assert hypothesis.tokens == tokens
        assert hypothesis.rank == pytest.approx(rank, abs=1e-5)


def naive_beam(model: OPTLanguageModel, prompt: list[int], beam: int, limit: int) -> list[tuple]:
    """Beam search as fairseq defines it, from full forward passes and plain lists."""
    growing: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for step in range(limit):
        candidates = []
        for total, tokens in growing:
            following = log_probs(model, prompt + tokens)
            for token, score in enumerate(following.tolist()):
                if token != PAD:
                    candidates.append((total + score, [*tokens, token]))
        candidates = sorted(candidates, reverse=True)[: 2 * beam]
        finished += [c for c in candidates[:beam] if c[1][-1] == EOS]
        growing = [c for c in candidates if c[1][-1] != EOS][:beam]
        if len(finished) >= beam or step + 1 == limit:
            break
    if step + 1 == limit:
        finished += growing
    return sorted(((t / len(s), s) for t, s in finished), reverse=True)[:beam]


@pytest.mark.parametrize("beam", [2, 5])
def test_beam_search_is_the_naive_one(beam: int) -> None:
    model = tiny_model(10, 0.2)
    prompts = random_prompts(6, longest=8, vocab_size=10)
    limits = [3, 12, 7, 12, 1, 9]
    found = generator(model).generate(prompts, limits, Settings(beam=beam))
    reasons = set()
    for prompt, limit, continuations in zip(prompts, limits, found):
        expected = naive_beam(model, prompt, beam, limit)
        assert [h.tokens for h in continuations.hypotheses] == [tokens for _, tokens in expected]
        ranks = [h.rank for h in continuations.hypotheses]
        assert ranks == pytest.approx([rank for rank, _ in expected], abs=1e-5)
        reasons |= {h.finish_reason for h in continuations.hypotheses}
    assert reasons == {"eos", "length"}


def test_samples_follow_the_models_distribution() -> None:
    model = tiny_model(vocab_size=12)
    prompt, count = [EOS, 5], 4000
    (found,) = generator(model).generate([prompt], [1], Settings(seed=0, num_samples=count))
    counts = torch.bincount(torch.tensor([h.tokens[0] for h in found.hypotheses]), minlength=12)
    expected = log_probs(model, prompt).exp()
    expected[PAD] = 0
    expected *= count / expected.sum()
    likely = expected >= 5
    chi_square = ((counts - expected) ** 2 / expected)[likely].sum().item()
    assert counts[PAD] == 0
    assert likely.sum() >= 6
    assert chi_square < 31.3  # 99.9% of true samples, at most 11 degrees of freedom


def test_same_seed_same_samples_and_equal_prompts_get_further_ones() -> None:
    machine = generator(tiny_model())
    prompt = [EOS, 9, 30]
    one = machine.generate([prompt], [12], Settings(seed=7, num_samples=2))[0]
    twice = machine.generate([prompt, prompt], [12, 12], Settings(seed=7))
    tokens = [h.tokens for h in one.hypotheses]
    assert tokens == [c.hypotheses[0].tokens for c in twice]
    assert tokens[0] != tokens[1]
    other = machine.generate([prompt], [12], Settings(seed=8))[0]
    assert other.hypotheses[0].tokens not in tokens
    fresh = [machine.generate([prompt], [12], Settings())[0].hypotheses[0].tokens for _ in range(2)]
    assert fresh[0] != fresh[1]


def test_lengths_and_forbidden_tokens() -> None:
    model = tiny_model(vocab_size=8, std=0.05)  # nearly even: </s> and <pad> are due any time
    machine = generator(model)
    prompts = [[EOS]] * 40
    for settings in (Settings(seed=1, min_new_tokens=4), Settings(beam=3, min_new_tokens=4)):
        found = machine.generate(prompts, [9] * 40, settings)
        tokens = [h.tokens for c in found for h in c.hypotheses]
        assert all(PAD not in row and EOS not in row[:-1] for row in tokens)
        assert all(5 <= len(row) <= 9 for row in tokens)
        reasons = {(h.tokens[-1] == EOS, h.finish_reason) for c in found for h in c.hypotheses}
        assert reasons <= {(True, "eos"), (False, "length")}
    assert {
        len(c.hypotheses[0].tokens) for c in machine.generate(prompts, [9] * 40, Settings(seed=1))
    } >= {1, 2, 3}


def test_new_tokens_are_capped_at_what_the_model_reads() -> None:
    model = tiny_model(vocab_size=12, decoder_max_positions=10)
    machine = generator(model)
    prompts = [[EOS, *[5] * 9], [EOS, *[6] * 3], [EOS]]
    settings = Settings(temperature=0.0, min_new_tokens=50)
    lengths = [len(c.hypotheses[0].tokens) for c in machine.generate(prompts, [50] * 3, settings)]
    assert lengths == [1, 7, 10]
    endless = replace(settings, min_new_tokens=10**30)
    (found,) = machine.generate([[EOS]], [10**30], endless)
    assert len(found.hypotheses[0].tokens) == 10


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ([], "must have at least one token, but prompt 1 has none"),
        ([EOS] + [5] * 40, r"must have at most 40 tokens .* but prompt 1 has 41"),
        ([EOS, 56], "must be from 0 to 55, but prompt 1 holds 56"),
        ([EOS, -1], "must be from 0 to 55, but prompt 1 holds -1"),
        ([EOS, PAD], "must not be padding"),
    ],
)
def test_prompts_that_cannot_be_read(prompt: list[int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        generator(tiny_model()).generate([[EOS, 5], prompt], [4, 4], GREEDY)


def test_several_models_are_averaged() -> None:
    models = [tiny_model(std=std) for std in (0.2, 0.3)]
    machine = generator(*models)
    prompt = [EOS, 8, 40]
    (found,) = machine.generate([prompt], [6], Settings(temperature=0.0, with_prompt_scores=True))
    tokens = prompt + found.hypotheses[0].tokens
    scores = found.prompt_scores + found.hypotheses[0].scores
    for length in range(1, len(tokens)):
        mean = torch.stack([log_probs(model, tokens[:length]).exp() for model in models]).mean(0)
        if length >= len(prompt):
            mean[PAD] = 0
            assert int(mean.argmax()) == tokens[length]
        assert scores[length - 1] == pytest.approx(math.log(mean[tokens[length]]), abs=1e-5)


def stop_behind(target: list[int]) -> StopRule:
    """Stops a row whose new tokens are ``target``."""

    def rule(prompt: Sequence[int], min_new_tokens: int) -> Watch:
        seen: list[int] = []

        def watch(token: int) -> bool:
            seen.append(token)
            return seen == target

        return watch

    return rule


def test_stop_rule_ends_its_row_only() -> None:
    machine = generator(tiny_model())
    prompts = random_prompts(3, longest=6)
    free = machine.generate(prompts, [12] * 3, GREEDY)
    target = free[1].hypotheses[0].tokens[:4]
    found = machine.generate(prompts, [12] * 3, GREEDY, stop=stop_behind(target))
    assert found[1].hypotheses[0].tokens == target
    assert found[1].hypotheses[0].finish_reason == "stop"
    assert_same(found[0], free[0])
    assert_same(found[2], free[2])


def test_stop_rule_is_asked_of_the_last_allowed_token_too() -> None:
    machine = generator(tiny_model())
    (free,) = machine.generate([[EOS, 5]], [6], GREEDY)
    tokens = free.hypotheses[0].tokens
    (found,) = machine.generate([[EOS, 5]], [6], GREEDY, stop=stop_behind(tokens))
    assert found.hypotheses[0].tokens == tokens
    assert free.hypotheses[0].finish_reason == "length"
    assert found.hypotheses[0].finish_reason == "stop"


def test_batches_hold_similar_lengths_within_the_limits() -> None:
    lengths = [5, 900, 3, 1000, 4]
    assert list(batches(lengths, 100, 1, None)) == [[2, 4, 0, 1, 3]]
    assert list(batches(lengths, 100, 6, None)) == [[2, 4, 0], [1, 3]]
    assert list(batches(lengths, 10_000, 2, None)) == [[2], [4], [0], [1], [3]]
    assert list(batches(lengths, 100, 1, 2)) == [[2, 4], [0, 1], [3]]
    assert list(batches([], 100, 1, None)) == []


def test_batches_do_not_change_what_is_generated_or_scored() -> None:
    machine = generator(tiny_model())
    prompts = random_prompts(7, longest=12)
    settings = Settings(seed=2, num_samples=2)
    together = machine.generate(prompts, [8] * 7, settings)
    for one, other in zip(machine.generate(prompts, [8] * 7, settings, batch_size=5), together):
        assert_same(one, other)
    for found, expected in zip(machine.score(prompts, batch_size=2), machine.score(prompts)):
        assert found.scores == pytest.approx(expected.scores, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_scores_are_log_probabilities_of_full_forward_passes(count: int) -> None:
    models = [tiny_model(std=std) for std in (0.2, 0.3)[:count]]
    prompts = random_prompts(5, longest=12)
    for prompt, found in zip(prompts, generator(*models).score(prompts, num_top=3)):
        expected = []
        for length in range(1, len(prompt)):
            probs = [log_probs(m, prompt[:length]).exp()[prompt[length]] for m in models]
            expected.append(math.log(sum(probs) / count))
            every = torch.stack([log_probs(m, prompt[:length]).exp() for m in models]).mean(0).log()
            tokens, tops = zip(*found.top_scores[length - 1])
            assert list(tokens) == every.topk(3).indices.tolist()
            assert list(tops) == pytest.approx(every.topk(3).values.tolist(), abs=1e-5)
        assert found.scores == pytest.approx(expected, abs=1e-5)
        assert len(found.top_scores) == len(prompt) - 1


def test_finished_rows_leave_the_batch() -> None:
    """Half of the rows end at once; from then on the model is given the other half only."""
    machine = generator(tiny_model())
    widths = []
    handle = machine.models[0].decoder.embed_tokens.register_forward_hook(
        lambda module, inputs, output: widths.append(len(inputs[0]))
    )
    settings = Settings(seed=0, min_new_tokens=20)
    machine.generate([[EOS, 5], [EOS, 6], [EOS, 7], [EOS, 8]], [2, 2, 6, 20], settings)
    handle.remove()
    assert widths == [4, 4, *[2] * 4, *[1] * 14]


@pytest.mark.parametrize("settings", [GREEDY, Settings(seed=1), Settings(beam=3)])
def test_documents_that_do_not_see_each_other_are_continued_as_alone(settings: Settings) -> None:
    """A model with ``--document-attention`` sees of a prompt its last document, also where beams are moved."""
    machine = generator(tiny_model(document_attention=True))
    prompts = [[EOS, 5, 6, 7, EOS, 9, 10], [EOS, *range(20, 32), EOS], [EOS, 8, 9]]
    documents = [[EOS, 9, 10], [EOS], [EOS, 8, 9]]
    scored = replace(settings, with_prompt_scores=True)
    found = machine.generate(prompts, [8] * 3, scored)
    for prompt, document, continued in zip(prompts, documents, found):
        assert continued.prompt_scores == pytest.approx(machine.score([prompt])[0].scores, abs=1e-5)
        for hypothesis in continued.hypotheses:
            (expected,) = machine.score([document + hypothesis.tokens])
            assert hypothesis.scores == pytest.approx(
                expected.scores[len(document) - 1 :], abs=1e-5
            )
    if settings.seed is None:
        alone = machine.generate(documents, [8] * 3, settings)
        assert [[h.tokens for h in c.hypotheses] for c in found] == [
            [h.tokens for h in c.hypotheses] for c in alone
        ]


def test_models_of_both_kinds_of_attention_are_not_averaged() -> None:
    machine = generator(tiny_model(), tiny_model(document_attention=True))
    with pytest.raises(UserError, match="must all be trained with `--document-attention`"):
        machine.generate([[EOS, 5]], [4], GREEDY)
