"""Texts that end a continuation: one rule, whether a row is watched, streamed or cut when it has ended.

The rule is ``text.TextStream``'s. ``StopTexts`` gives each row a stream of its own, and asks it after each
new token.
"""

from dataclasses import dataclass
from typing import Callable, Sequence

from metaseq_plugin.generation.text import Decode, TextStream

# Told each new token of one row in turn, whether the row is to stop there.
Watch = Callable[[int], bool]
# Told a row's prompt and ``min_new_tokens``, its watch.
StopRule = Callable[[Sequence[int], int], Watch]


@dataclass(frozen=True)
class StopTexts:
    """The rule that rows stop where their text holds one of ``stops``, none of which is empty."""

    stops: Sequence[str]
    decode: Decode

    def __call__(self, prompt: Sequence[int], min_new_tokens: int) -> Watch:
        stream = TextStream(self.decode, prompt, self.stops, min_new_tokens)

        def watch(token: int) -> bool:
            stream.push(token)
            return stream.is_stopped

        return watch
