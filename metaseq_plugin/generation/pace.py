"""How many tokens a second are got through, of late."""

HALF_LIFE = 30.0  # busy seconds after which what was measured counts half
# What is told before anything was measured, and at least.
SHORTEST = 1.0


class Pace:
    """Tokens per busy second: idle time does not count."""

    def __init__(self) -> None:
        self.measured = (0.0, 0.0)  # tokens and seconds, the older the less

    def add(self, tokens: int, seconds: float) -> None:
        """Take in that ``tokens`` took ``seconds``."""
        kept = 0.5 ** (seconds / HALF_LIFE)
        before, time = self.measured
        self.measured = (before * kept + tokens, time * kept + seconds)

    def per_second(self) -> float:
        """Tokens per second; 0: nothing was measured."""
        tokens, seconds = self.measured
        return tokens / seconds if seconds else 0.0

    def seconds_for(self, tokens: int) -> float:
        """Seconds that ``tokens`` will take, at least ``SHORTEST``."""
        pace = self.per_second()
        return max(SHORTEST, tokens / pace) if pace else SHORTEST
