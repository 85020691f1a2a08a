"""Spikes of the loss and of the gradient's norm, found in the update that shows them.

    detector = Detector(window=128, limit=8.0)
    detector.look(Seen(update=57, loss=3.1, gnorm=0.8))     # None, or Spike(of="loss", value=…, z=…)

How far a value lies above what was to be expected, in units of what is usual, is its robust z:

    expected  = median of the NEAR values before it                      a trend moves it along
    residual  = value − expected
    spread    = 1.4826 · median |residual| over the window before it     σ, were the residuals normal
    z         = residual / max(spread, FLOOR)

1.4826 · MAD estimates σ with up to half of the values wild (Rousseeuw & Croux 1993, JASA 88, section 1). The loss is
taken as it is logged, the norm by its logarithm, since it varies in proportion. Only what lies above counts: a loss
that falls is no spike. Nothing is judged before LEARNING residuals are there. A value that was a spike is kept as
any other, so that a run that goes over to other values is at rest again after half of NEAR.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from statistics import median
from typing import Deque, Iterable, List, NamedTuple, Optional

NEAR = 9  # values that the next one is expected from
LEARNING = 32  # residuals before any is judged
SIGMA = 1.4826
# Less than this is never unusual: 2 % of the loss, a norm that is 1.2 times another.
LOSS_FLOOR, NORM_FLOOR = 0.02, 0.2
SMALLEST = 1e-12  # a norm of 0 has a logarithm, and a loss that is always 0 a spread


class Seen(NamedTuple):
    """Of one update, over all ranks: the loss in bits a token, the gradient's norm before clipping."""

    update: int
    loss: float
    gnorm: float


class Spike(NamedTuple):
    """A value that is not to be expected: ``of`` is "loss" or "gnorm"; ``z`` is infinite for a NaN."""

    of: str
    value: float
    z: float


class Series:
    """The values of one number, update by update. What is asked of the window is kept in order, for speed."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._near: Deque[float] = deque(maxlen=NEAR)
        self._residuals: Deque[float] = deque()  # without their signs
        self._sorted: List[float] = []  # the same
        self.expected = 0.0  # the median of ``_near``

    def z(self, value: float, floor: float) -> float:
        """How unusual ``value`` is, before it is taken in; 0 while that is not known."""
        if len(self._sorted) < LEARNING:
            return 0.0
        half, is_odd = divmod(len(self._sorted), 2)
        middle = self._sorted[half] + self._sorted[half - 1 + is_odd]
        return (value - self.expected) / max(SIGMA * middle / 2, floor, SMALLEST)

    def take(self, value: float) -> None:
        """Take ``value`` in."""
        if len(self._near) == NEAR:
            self._residuals.append(abs(value - self.expected))
            insort(self._sorted, self._residuals[-1])
        if len(self._residuals) > self._window:
            del self._sorted[bisect_left(self._sorted, self._residuals.popleft())]
        self._near.append(value)
        self.expected = median(self._near)


class Detector:
    """Tells a spike from what a run does ordinarily.

    Args:
        window: residuals that the spread is taken from, at least LEARNING.
        limit: the least z of a spike.
    """

    def __init__(self, window: int, limit: float) -> None:
        self.window, self.limit = window, limit
        self._kept: Deque[Seen] = deque(maxlen=window + NEAR)
        self._loss, self._norm = Series(window), Series(window)

    def look(self, seen: Seen) -> Optional[Spike]:
        """The spike that ``seen``, of finite numbers, is; it is taken in whether or not."""
        loss_floor = LOSS_FLOOR * abs(self._loss.expected) if self._kept else 0.0
        z_of_loss = self._loss.z(seen.loss, loss_floor)
        z_of_norm = self._norm.z(logarithm(seen.gnorm), NORM_FLOOR)
        self._take(seen)
        if max(z_of_loss, z_of_norm) < self.limit:
            return None
        if z_of_loss >= z_of_norm:
            return Spike("loss", seen.loss, z_of_loss)
        return Spike("gnorm", seen.gnorm, z_of_norm)

    @property
    def kept(self) -> List[Seen]:
        """All that it remembers, the oldest first."""
        return list(self._kept)

    def restore(self, kept: Iterable[Seen]) -> None:
        """Remember ``kept`` and nothing else."""
        self.__init__(self.window, self.limit)  # type: ignore[misc]
        for seen in kept:
            self._take(seen)

    def _take(self, seen: Seen) -> None:
        self._kept.append(seen)
        self._loss.take(seen.loss)
        self._norm.take(logarithm(seen.gnorm))


def logarithm(norm: float) -> float:
    return math.log(max(norm, SMALLEST))
