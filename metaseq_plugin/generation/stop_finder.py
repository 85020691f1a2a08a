"""Finding stop texts in a text that comes in pieces, at a cost that grows with its length alone.

The search is Knuth, Morris and Pratt's, for each stop text: its state is how much of it the text ends
with. So the largest state is what must be held back, and no character is looked at twice.
"""

from typing import Sequence


def fallbacks(stop: str) -> list[int]:
    """For each length of a beginning of ``stop``, the longest shorter one that it ends with."""
    table = [0, 0]
    length = 0
    for character in stop[1:]:
        while length and stop[length] != character:
            length = table[length]
        length += stop[length] == character
        table.append(length)
    return table


class StopFinder:
    """Where the first of ``stops`` ends in a text, whatever pieces it comes in.

    The stop text that is complete first is found, and of those that end together the longest.

    Args:
        stops: non-empty texts.

    Attributes:
        is_found: a stop text has ended the text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [(stop, fallbacks(stop)) for stop in stops]
        self.firsts = {stop[0] for stop in stops}
        self.states = [0] * len(stops)  # of each, how many of its characters the text ends with
        self.tail = ""  # the end of the text that is held back
        self.is_found = False

    def push(self, text: str, is_blocked: bool = False) -> str:
        """Append a piece; the text that is before any stop text and no part of one.

        Args:
            is_blocked: a stop text that ends in this piece is text like any other.
        """
        if not any(self.states) and self.firsts.isdisjoint(text):
            return text
        text, start = self.tail + text, len(self.tail)
        for end in range(start + 1, len(text) + 1):
            complete = self.advance(text[end - 1])
            if complete and not is_blocked:
                self.is_found, self.tail = True, ""
                return text[: end - complete]
        count = len(text) - max(self.states)
        self.tail = text[count:]
        return text[:count]

    def advance(self, character: str) -> int:
        """Read a character; the length of the longest stop text that it completes, or 0."""
        longest = 0
        for number, (stop, table) in enumerate(self.stops):
            length = self.states[number]
            while length and stop[length] != character:
                length = table[length]
            length += stop[length] == character
            if length == len(stop):
                longest = max(longest, length)
                length = table[length]
            self.states[number] = length
        return longest

    def held(self) -> str:
        """What is held back, once nothing follows."""
        held, self.tail = self.tail, ""
        return held
