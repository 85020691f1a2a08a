"""Continuations as people get them: text, tokens and scores, whole or piece by piece.

``completions`` makes the results of a prompt from what was generated, ``pieces`` the same as it comes.
Both make their text with one ``TextStream``, so that the pieces of a row are its completion.
"""

from typing import Generator, NamedTuple, Optional, Sequence

from metaseq_plugin.generation.batch import Batch, Request
from metaseq_plugin.generation.options import Asked
from metaseq_plugin.generation.settings import Continuations, Hypothesis, TopScores
from metaseq_plugin.generation.text import Decode, TextStream


class Completion(NamedTuple):
    """One continuation of a prompt; with ``echo``, the prompt's text, tokens and so on come first."""

    text: Optional[str]  # without </s>, cut before a stop text; None without a tokenizer
    tokens: list[int]  # new tokens, with the </s> that ended them, if one did
    scores: list[float]  # natural log-probability of each, at the temperature, nothing truncated
    finish_reason: str  # "eos", "length" or "stop"
    top_scores: list[TopScores]  # of each token, the likeliest (token, score) in its place, falling
    offsets: list[int]  # of each token, the character of ``text`` at which it begins


class Piece(NamedTuple):
    """What has become certain of a continuation since the piece before."""

    text: str  # "" where only tokens are new, and without a tokenizer
    tokens: list[int]
    scores: list[float]
    top_scores: list[TopScores]
    finish_reason: Optional[str]  # None: more follows


Pieces = Generator[Piece, None, None]  # ``close`` ends the work


class Scored(NamedTuple):
    """The tokens of an input and what the model gives each, after ``</s>`` and those before it."""

    tokens: list[int]  # without the leading </s>
    scores: list[float]  # natural log-probabilities
    top_scores: list[TopScores]  # of each token, the likeliest (token, score) in its place, falling


def completions(
    prompt: Sequence[int], continued: Continuations, asked: Asked, decode: Optional[Decode]
) -> list[Completion]:
    """The results of one prompt, as many as were asked for; the best ones first with ``best_of``.

    Args:
        prompt: token ids, the leading ``</s>`` included.
        decode: token ids → text; None: the model has no tokenizer.
    """
    found = continued.hypotheses
    if asked.is_ranked:
        found = sorted(found, key=mean_score, reverse=True)[: asked.num_samples]
    made = []
    for hypothesis in found:
        text, offsets, reason = text_of(prompt, hypothesis, asked, decode)
        tokens, scores = hypothesis.tokens, hypothesis.scores if asked.with_scores else []
        top_scores = hypothesis.top_scores
        if asked.echo:
            tokens = [*prompt[1:], *tokens]
            scores = [*continued.prompt_scores, *scores]
            top_scores = [*continued.prompt_top_scores, *top_scores]
        made.append(Completion(text, tokens, scores, reason, top_scores, offsets))
    return made


def mean_score(hypothesis: Hypothesis) -> float:
    """Log-probability per token."""
    return sum(hypothesis.scores) / len(hypothesis.scores)


def text_stream(decode: Decode, prompt: Sequence[int], asked: Asked) -> TextStream:
    """The text of a row's new tokens, cut before what ends it."""
    return TextStream(decode, prompt, asked.stops, asked.settings.min_new_tokens)


def text_of(
    prompt: Sequence[int], hypothesis: Hypothesis, asked: Asked, decode: Optional[Decode]
) -> tuple[Optional[str], list[int], str]:
    """The text of a completion, the character of it at which each token begins, and why it ends."""
    if decode is None:
        return None, [], hypothesis.finish_reason
    text, offsets = "", []
    if asked.echo:
        echoed = TextStream(decode, prompt[:1], ())
        for token in prompt[1:]:
            offsets.append(len(text))
            text += echoed.push(token)
        text += echoed.end()
    stream = text_stream(decode, prompt, asked)
    for token in hypothesis.tokens:
        offsets.append(len(text))
        text += stream.push(token)
    text += stream.end()
    return text, offsets, "stop" if stream.is_stopped else hypothesis.finish_reason


def pieces(batch: Batch, request: Request, asked: Asked, decode: Optional[Decode]) -> Pieces:
    """Continue ``request``, of one sample, in a ``batch`` of its own; closed early, its row leaves it."""
    (row,) = batch.admit([request])
    stream = None if decode is None else text_stream(decode, request.prompt, asked)
    text, told = "", 0
    try:
        if asked.echo:
            echoed = "" if decode is None else decode(request.prompt)
            yield Piece(
                echoed, list(request.prompt[1:]), row.prompt_scores, row.prompt_top_scores, None
            )
        reason = None
        while reason is None:
            for news in batch.step():
                text += stream.push(news.token) if stream else ""
            reason = row.finish_reason
            if stream and reason is not None:
                text += stream.end()
                reason = "stop" if stream.is_stopped else reason
            if text or stream is None or reason is not None:
                new = slice(told, None)
                yield Piece(text, row.tokens[new], row.scores[new], row.top_scores[new], reason)
                text, told = "", len(row.tokens)
    finally:
        batch.cancel(row)
