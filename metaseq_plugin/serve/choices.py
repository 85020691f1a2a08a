"""The text and the log-probabilities of one choice, piece by piece as its tokens come.

    choice = ChoiceText(tokenizer, prompt, stops, Shown(with_logprobs=True))
    pieces = [choice.begin([], []), *(choice.take(*token) for token in tokens), choice.end("eos")]

What is sent piece by piece is, joined, what is sent at once: both are these pieces. A token's log-probability
goes out when its text begins to. Tokens of a stop text are left out with it; a ``</s>`` that ended the choice
stays, without text.
"""

import codecs
from typing import NamedTuple, Optional, Sequence

from metaseq_plugin.generation.settings import TopScores
from metaseq_plugin.generation.text import TextStream
from metaseq_plugin.serve.protocol import Logprobs
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.dictionary import SPECIAL_SYMBOLS


class Entry(NamedTuple):
    """One token of ``logprobs``."""

    token: str
    score: Optional[float]
    top: Optional[dict[str, float]]
    offset: int


class Piece(NamedTuple):
    """What a choice has got that is certain."""

    text: str = ""
    entries: tuple[Entry, ...] = ()
    finish_reason: Optional[str] = None  # "stop" or "length", of the last


class Shown(NamedTuple):
    """What of a choice is wanted."""

    with_logprobs: bool = False
    echo_from: Optional[int] = None  # the prompt too, from this token on
    echo_text: Optional[str] = None  # as the client wrote it, where it wrote a text


def label(tokenizer: Tokenizer, token: int) -> str:
    """How a token is written: its text, ``bytes:\\xe2`` where it is none by itself, or a special name."""
    if token < len(SPECIAL_SYMBOLS):
        return str(tokenizer.dictionary.symbols[token])
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def top_of(
    tokenizer: Tokenizer, token: int, score: float, top_scores: TopScores
) -> dict[str, float]:
    """The likeliest tokens and the one that was taken, each under a key of its own."""
    found = {label(tokenizer, token): score}
    for other, value in top_scores:
        if other != token:
            key = label(tokenizer, other)
            found[f"token_id:{other}" if key in found else key] = value
    return dict(sorted(found.items(), key=lambda item: -item[1]))


class Offsets:
    """Where each token's text begins, in characters, told token by token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.count = 0
        self.is_begun = False

    def take(self, token: int) -> int:
        data = self.tokenizer.token_bytes(token)
        if data and data[0] & 0xC0 != 0x80:  # what is cut before it is not continued
            self.count += len(self.decoder.decode(b"", final=True))
        start = self.count
        self.count += len(self.decoder.decode(data))
        if data and not self.is_begun:  # SentencePiece drops a space where a text begins
            self.is_begun = True
            self.count -= len(data.decode("utf-8", "replace")) - len(self.tokenizer.decode([token]))
        return max(start, 0)


class ChoiceText:
    """One choice of a prompt.

    Args:
        prompt: token ids, the leading ``</s>`` included.
        stops: texts that end it.
        min_new_tokens: before which none does.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        stops: Sequence[str],
        shown: Shown,
        min_new_tokens: int = 0,
    ) -> None:
        self.tokenizer, self.prompt, self.shown = tokenizer, prompt, shown
        self.stream = TextStream(tokenizer.decode, prompt, stops, min_new_tokens)
        self.offsets = Offsets(tokenizer)
        self.base = 0  # characters of the prompt that are not shown
        self.length = 0  # of the text so far
        self.pending: list[Entry] = []
        self.num_tokens = 0
        self.total = 0.0  # sum of the scores of new tokens

    def begin(self, scores: Sequence[float], top_scores: Sequence[TopScores]) -> Piece:
        """The prompt, where it is echoed.

        Args:
            scores: of the prompt's tokens after the first.
            top_scores: the likeliest beside each.
        """
        if not self.shown.with_logprobs and self.shown.echo_from is None:
            return Piece()
        for place, token in enumerate(self.prompt):
            offset = self.offsets.take(token)
            if self.shown.echo_from is None or place < self.shown.echo_from:
                continue
            if self.shown.with_logprobs:
                has_score = place > 0
                self.note(
                    token,
                    scores[place - 1] if has_score else None,
                    top_scores[place - 1] if has_score and top_scores else [],
                    offset,
                )
        if self.shown.echo_from is None:
            self.base = self.offsets.count
            return Piece()
        text = self.shown.echo_text
        return self.show(self.tokenizer.decode(self.prompt) if text is None else text)

    def take(self, token: int, score: Optional[float], top_scores: TopScores) -> Piece:
        """One new token."""
        self.num_tokens += 1
        self.total += score or 0.0
        if self.shown.with_logprobs:
            self.note(token, score, top_scores, max(self.offsets.take(token) - self.base, 0))
        return self.show(self.stream.push(token))

    def end(self, reason: str) -> Piece:
        """The rest; ``reason`` as in ``Hypothesis``."""
        text, entries, _ = self.show(self.stream.end())
        is_cut = self.stream.is_stopped
        if not is_cut:
            entries += tuple(e._replace(offset=min(e.offset, self.length)) for e in self.pending)
        self.pending = []
        return Piece(text, entries, "length" if reason == "length" and not is_cut else "stop")

    def note(self, token: int, score: Optional[float], top_scores: TopScores, offset: int) -> None:
        top = None if score is None else top_of(self.tokenizer, token, score, top_scores)
        self.pending.append(Entry(label(self.tokenizer, token), score, top, offset))

    def show(self, text: str) -> Piece:
        """``text``, and the tokens that begin before its end."""
        self.length += len(text)
        count = sum(1 for entry in self.pending if entry.offset < self.length)
        shown, self.pending = self.pending[:count], self.pending[count:]
        return Piece(text, tuple(shown))

    @property
    def mean_score(self) -> float:
        """What ``best_of`` compares."""
        return self.total / max(self.num_tokens, 1)


def joined(pieces: Sequence[Piece]) -> Piece:
    """Pieces of one choice as one."""
    return Piece(
        "".join(piece.text for piece in pieces),
        tuple(entry for piece in pieces for entry in piece.entries),
        pieces[-1].finish_reason,
    )


def logprobs_of(entries: Sequence[Entry]) -> Logprobs:
    """Entries in OpenAI's four lists."""
    return Logprobs(
        tokens=[entry.token for entry in entries],
        token_logprobs=[entry.score for entry in entries],
        top_logprobs=[entry.top for entry in entries],
        text_offset=[entry.offset for entry in entries],
    )
