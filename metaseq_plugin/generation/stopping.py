"""Texts that end a continuation, found without decoding all of it after each token.

What a new token changes in the text is its own characters and the one before them that it may complete.
So a text that was not there before ends in those, and begins at most its own length before them: a few
of the last tokens are enough to see it. Where their text begins within a character, up to three others
stand for the rest of its bytes, and some tokenizers drop a space there; behind these it is the end of
the whole text. No tokenizer's tokens have a fixed number of characters, so they are counted.
"""

from typing import Callable, Sequence

# Told the new tokens of a row, whether the row is to stop here; asked after each of them.
StopRule = Callable[[list[int]], bool]

# Bytes of a character in UTF-8 beside its first: so many characters may stand for one that is cut.
CUT = 3


class StopTexts:
    """Whether the text of a row's new tokens holds one of ``stops``.

    Args:
        decode: token ids → text.
    """

    def __init__(self, stops: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self.stops = stops
        self.decode = decode
        # Characters to see before a new token: one cut at the begin, the stop's, one completed.
        self.before = CUT + max(map(len, stops)) - 1 + CUT

    def __call__(self, tokens: list[int]) -> bool:
        count = self.before
        while count < len(tokens) and len(self.decode(tokens[-1 - count : -1])) < self.before:
            count *= 2
        text = self.decode(tokens[-1 - count :])
        text = text[CUT:] if count + 1 < len(tokens) else text
        return any(stop in text for stop in self.stops)
