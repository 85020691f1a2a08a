"""Likelihoods of rows' ends are those of each row by itself, however rows share their beginnings."""

import random
from typing import Any, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation import likelihood
from metaseq_plugin.generation.decoding import Decoding
from metaseq_plugin.generation.generator import Generator
from metaseq_plugin.generation.likelihood import likelihoods
from metaseq_plugin.generation.trees import Tree, cost, trees
from metaseq_plugin.models.opt import OPTLanguageModel
from tests.opt_models import KINDS, VOCAB_SIZE, decoder, dictionary

EOS = 2
DOCUMENTS = {**KINDS["pre-norm"], "document_attention": True}


def generator_of(**sizes: Any) -> Generator:
    return Generator([OPTLanguageModel(decoder(**sizes))], dictionary())


@pytest.fixture(scope="module")
def generator() -> Generator:
    return generator_of(**KINDS["pre-norm"])


def questions(seed: int = 1) -> tuple[list[list[int]], list[int]]:
    """Rows of several continuations behind one context, and how long each of these is."""
    draw = random.Random(seed)
    rows, counts = [], []
    for _ in range(6):
        context = [EOS, *(draw.randrange(4, VOCAB_SIZE) for _ in range(draw.randrange(24)))]
        for _ in range(draw.randrange(1, 5)):
            continuation = [draw.randrange(4, 7) for _ in range(draw.randrange(1, 9))]
            rows.append(context + continuation)
            counts.append(len(continuation))
    return rows, counts


def check(generator: Generator, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
    """Held against a full pass over each row alone."""
    found = dict(likelihoods(generator, rows, counts))
    assert len(found) == len(rows)
    for number, (row, count) in enumerate(zip(rows, counts)):
        logits, _ = generator.models[0].decoder(torch.tensor([row[:-1]]))
        log_probs = logits[0, -count:].log_softmax(-1)
        targets = torch.tensor(row[-count:])
        expected = log_probs.gather(1, targets[:, None])[:, 0]
        assert found[number].scores == pytest.approx(expected.tolist(), abs=1e-4)
        assert found[number].is_greedy == bool((log_probs.argmax(-1) == targets).all())


@pytest.mark.parametrize("kind", [*KINDS, "documents"])
@torch.no_grad()
def test_of_every_kind_of_model(kind: str) -> None:
    generator = generator_of(**KINDS.get(kind, DOCUMENTS))
    rows, counts = questions()
    # Of documents that end within a row, a model with --document-attention sees the last one.
    rows += [[EOS, EOS, 7, 8, EOS, 9, 10, 11], [EOS, EOS, 7, 8, EOS, 9, 12, 11]]
    check(generator, rows, [*counts, 7, 3])


@given(st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=12), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_of_any_rows(rows: list[list[int]]) -> None:
    with torch.no_grad():
        check(SMALL, [[EOS, *row] for row in rows], [1 + len(row) // 2 for row in rows])


SMALL = generator_of(**{**KINDS["pre-norm"], "decoder_layers": 2})


@torch.no_grad()
def test_what_greedy_decoding_writes_is_greedy(generator: Generator) -> None:
    prompt = [EOS, 9, 12]
    row = list(prompt)
    for _ in range(5):
        row.append(int(generator.models[0].decoder(torch.tensor([row]))[0][0, -1].argmax()))
    other = [*row[:-1], (row[-1] + 1 - 4) % (VOCAB_SIZE - 4) + 4]
    found = dict(likelihoods(generator, [row, other], [5, 5]))
    assert (found[0].is_greedy, found[1].is_greedy) == (True, False)
    assert found[0].total == pytest.approx(sum(found[0].scores))


def test_a_shared_beginning_is_read_once_and_logits_are_of_wanted_places(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = [EOS, *range(10, 40)]
    rows = [[*context, *end] for end in ([4], [5], [6, 7], [6, 8])]
    read: list[int] = []
    scored: list[int] = []
    model = generator.models[0].decoder
    features, output = model.extract_features, model.output_layer

    def watched_features(tokens: torch.Tensor, *given: Any) -> torch.Tensor:
        read.append(tokens.numel())
        return features(tokens, *given)

    def watched_output(part: torch.Tensor) -> torch.Tensor:
        scored.append(len(part))
        return output(part)

    monkeypatch.setattr(model, "extract_features", watched_features)
    monkeypatch.setattr(model, "output_layer", watched_output)
    assert len(dict(likelihoods(generator, rows, [1, 1, 2, 2]))) == 4
    assert read == [len(context) + 1]  # the last tokens of rows are not read
    assert scored == [2]  # behind the context, and behind 6


def test_batches_hold_no_more_tokens_than_asked(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    widths: list[int] = []
    score = Decoding.score_trees

    def watched(self: Decoding, batch: Sequence[Tree], *given: Any) -> Any:
        widths.append(max(len(tree.tokens) for tree in batch))
        sizes.append(len(batch) * widths[-1])
        return score(self, batch, *given)

    monkeypatch.setattr(Decoding, "score_trees", watched)
    rows, counts = questions()
    apart = dict(likelihoods(generator, rows, counts, max_tokens=64))
    assert len(sizes) > 1
    assert max(sizes) <= 64
    assert widths == sorted(widths, reverse=True)  # so that memory runs out at once or never
    together = dict(likelihoods(generator, rows, counts))
    for number, found in apart.items():
        assert found.scores == pytest.approx(together[number].scores, abs=1e-5)


def test_the_same_call_gives_the_same_bits(generator: Generator) -> None:
    rows, counts = questions(2)
    assert dict(likelihoods(generator, rows, counts)) == dict(likelihoods(generator, rows, counts))


def test_a_row_joins_a_tree_only_where_that_saves_time() -> None:
    rows = [[EOS, *range(10, 30), n] for n in range(4)]
    (tree,) = trees(rows, 768)
    assert (len(tree.tokens), tree.rows) == (21 + 4, [0, 1, 2, 3])
    assert tree.ends[:21] == [25] * 21
    assert tree.ends[21:] == [22, 23, 24, 25]
    assert tree.depths == [*range(21), 21, 21, 21, 21]
    assert not tree.is_row
    assert len(list(trees(rows, 768, can_share=False))) == 4
    unlike = [[EOS, *range(n, n + 30)] for n in (4, 5, 6)]
    assert len(list(trees(unlike, 768))) == 3
    # Of narrow models attention is the larger part, so that a tree of many rows costs more.
    assert len(list(trees([[EOS, 5, *range(n, n + 9)] for n in range(10, 40)], 1))) > 1
    assert cost(60, 10) == 120


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([[EOS, *[7] * 41]], "A prompt must have at most 41 tokens"),
        ([[EOS, VOCAB_SIZE]], "A prompt's token ids must be from 0 to"),
        ([[]], "A prompt must have at least one token"),
    ],
)
def test_rows_that_are_refused(generator: Generator, rows: list[list[int]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        list(likelihoods(generator, rows, [1]))


def test_logits_that_are_not_finite_are_an_error() -> None:
    generator = generator_of(**KINDS["pre-norm"])
    generator.models[0].decoder.embed_positions.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="The model's logits must be finite"):
        list(likelihood.likelihoods(generator, [[EOS, 5, 6]], [1]))
