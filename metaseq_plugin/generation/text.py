"""The text of new tokens as it comes, cut before the stop text that is complete first.

    stream = TextStream(tokenizer.decode, prompt, ["\\n\\n"])
    for token in tokens:
        print(stream.push(token), end="")
    print(stream.end())

``continued_text`` is the same for all tokens at once, so what is streamed is, joined, what is not.

New text is what follows the prompt's in the text of both together; where the prompt ends within a
character that new tokens complete, that character is new. Text is certain once no later token can change
it: a character may be cut between tokens, and stands as U+FFFD until its last byte comes.

Cost: some tokenizers drop spaces where a text begins, and behind it read all tokens alike. So tokens
whose text is not certain are decoded behind a few others, the anchor, and all others not again.
"""

from typing import Callable, Sequence

from metaseq_plugin.generation.stop_finder import StopFinder

Decode = Callable[[Sequence[int]], str]

CUT = "\ufffd"
# At most so many U+FFFD stand for one character that is cut: the bytes of UTF-8's longest but its last.
MOST_CUT = 3
# Half of the tokens that may wait for a character's end; with more, the older half is tried to be done.
HALF = 8


def certain_part(text: str) -> str:
    """``text`` without the U+FFFD at its end that may yet become a character."""
    cut = min(len(text) - len(text.rstrip(CUT)), MOST_CUT)
    return text[: len(text) - cut]


def last_characters(tokens: Sequence[int], decode: Decode) -> list[int]:
    """The last of ``tokens``, as many as hold a character that is not cut; all, where none is."""
    count = 4
    while count < len(tokens) and len(decode(tokens[-count:])) <= 2 * MOST_CUT:
        count *= 2
    return list(tokens[-count:])


class CertainText:
    """The text of new tokens that has become certain, token by token.

    Args:
        decode: token ids → text.
        prompt: the tokens before the new ones.
    """

    def __init__(self, decode: Decode, prompt: Sequence[int]) -> None:
        self.decode = decode
        self.set_anchor(last_characters(prompt, decode))
        self.begin([])
        self.sent = len(certain_part(self.text))
        # U+FFFD that the prompt ends with: they are new where they become something else.
        self.old = len(self.text) - self.sent

    def set_anchor(self, anchor: list[int]) -> None:
        """Decode tokens behind ``anchor`` from now on."""
        self.anchor = anchor
        self.anchor_text = self.decode(anchor)
        self.is_whole = self.anchor_text != "" and not self.anchor_text.endswith(CUT)

    def begin(self, tokens: list[int]) -> None:
        """Go on with ``tokens`` behind the anchor, of which nothing has been sent."""
        self.window = self.anchor + tokens
        self.text = self.decode(self.window) if tokens else self.anchor_text
        self.sent = len(self.anchor_text)
        self.most = 2 * HALF  # tokens behind the anchor

    def push(self, token: int) -> str:
        """Append a token; the text that is certain by now and was not before."""
        self.window.append(token)
        self.text = self.decode(self.window)
        certain = certain_part(self.text)
        new = self.take(certain)
        if certain and certain == self.text:
            if not self.is_whole:
                self.set_anchor(last_characters(self.window, self.decode))
            self.begin([])
        elif len(self.window) - len(self.anchor) > self.most:
            self.shorten()
        return new

    def end(self) -> str:
        """The rest: what is cut stays so."""
        return self.take(self.text)

    def take(self, text: str) -> str:
        """What of ``text``, the window's or its certain part, has not been taken."""
        while self.old and self.sent < len(text):
            is_same = text[self.sent] == CUT
            self.old = self.old - 1 if is_same else 0
            self.sent += is_same
        new = text[self.sent :]
        self.sent = len(text)
        return new

    def shorten(self) -> None:
        """Give up the older tokens, unless a character is cut between them and the last ``HALF``."""
        older, last = self.window[:-HALF], self.window[-HALF:]
        anchor = older[-HALF:]
        before = self.decode(older)
        behind = self.decode(anchor + last)[len(self.decode(anchor)) :]
        if anchor and len(behind) > MOST_CUT and self.text == before + behind:
            unsent = len(self.text) - self.sent
            self.set_anchor(anchor)
            self.begin(last)
            self.sent = len(self.text) - unsent
        else:
            self.most *= 2


class TextStream:
    """The text of a row's new tokens, token by token, up to the first stop text.

    A stop text is one that is completed by new token number ``min_new_tokens`` or a later one. The one
    that is complete first ends the text, and of several the longest.

    Args:
        decode: token ids → text.
        prompt: the tokens before the new ones.
        stops: non-empty texts.

    Attributes:
        is_stopped: a stop text was found; there is no more text.
    """

    def __init__(
        self, decode: Decode, prompt: Sequence[int], stops: Sequence[str], min_new_tokens: int = 0
    ) -> None:
        self.certain = CertainText(decode, prompt)
        self.finder = StopFinder(stops)
        self.blocked = (
            min_new_tokens  # tokens that complete no stop text, the first of them included
        )
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Append a token; the text that is certain by now, and no part of a stop text."""
        if self.is_stopped:
            return ""
        self.blocked -= 1
        return self.look(self.certain.push(token))

    def end(self) -> str:
        """The rest of the text, once no token follows; it may hold a stop text, and is cut before it."""
        if self.is_stopped:
            return ""
        text = self.look(self.certain.end())
        return text if self.is_stopped else text + self.finder.held()

    def look(self, text: str) -> str:
        found = self.finder.push(text, is_blocked=self.blocked > 0)
        self.is_stopped = self.finder.is_found
        return found


def continued_text(
    decode: Decode,
    prompt: Sequence[int],
    tokens: Sequence[int],
    stops: Sequence[str] = (),
    min_new_tokens: int = 0,
) -> tuple[str, bool]:
    """The text that ``tokens`` add to the prompt's, and whether a stop text has ended it."""
    stream = TextStream(decode, prompt, stops, min_new_tokens)
    text = "".join(map(stream.push, tokens))
    return text + stream.end(), stream.is_stopped
