"""The gradient noise scale: how many tokens an update may have before more of them teach it little more.

    with seeing_small_gradients(update, grid) as small:
        …                                       # forward and backward of all batches
    found = small.of_all(grad_norm=0.8)         # Estimate(trace=…, square=…); None where it cannot be told
    running.add(found); running.scale           # tokens

McCandlish et al. 2018 (arXiv:1812.06162), B_simple = tr(Σ) / |G|², where G is the true gradient and Σ the covariance of
one token's. The mean gradient g of B tokens has E|g|² = |G|² + tr(Σ)/B. An update has small batches j, of B_j tokens,
and they make up the large one, of B = Σ B_j. With q = mean |g_j|² and h = mean 1/B_j, both of these are unbiased
(appendix A.1, where all B_j are one, so h = 1/B_small):

    tr(Σ) = (q − |g|²) / (h − 1/B)          |G|² = |g|² − tr(Σ)/B

Their quotient is not: so each is averaged over updates, and the averages are divided.

What a small batch is: (1) each micro-batch of each data-parallel rank, whose gradient is seen on its way to the
parameter, before it is added to others or reduced; (2) with ``fully_sharded``, whose gradients no rank has whole,
the first micro-batch of all ranks together, whose gradient is there before the second one's is added. Neither copies a
gradient. All is added up over the ranks in one all-reduce of six numbers.
"""

from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple, Optional

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metaseq_plugin.compat.loss_scale import loss_multiple
from metaseq_plugin.compat.watched_updates import Update
from metaseq_plugin.layout.grid import Grid
from metaseq_plugin.layout.held import is_model_part, local, named_pieces

DECAY = 0.95  # of the averages, at each estimate: they are of the last 20 or so


class Sums(NamedTuple):
    """Of all small batches of an update: numbers to add up over the ranks.

    Attributes:
        squares: of the mean gradients' norms; Σ |g_j|².
        inverses: Σ 1/B_j.
        number: how many there are.
        tokens: of the whole update, B.
    """

    squares: float
    inverses: float
    number: float
    tokens: float


class Estimate(NamedTuple):
    """Of one update: tr(Σ), in squares of a mean gradient's norm times tokens, and |G|², which may be below 0."""

    trace: float
    square: float


def estimate(small: Sums, grad_norm: float) -> Optional[Estimate]:
    """The two unbiased estimates; None where the small batches are no smaller than the large one.

    Args:
        grad_norm: |g|, of the mean gradient of all tokens.
    """
    if not small.number or small.inverses / small.number <= 1 / small.tokens:
        return None
    gap = small.inverses / small.number - 1 / small.tokens
    trace = (small.squares / small.number - grad_norm**2) / gap
    return Estimate(trace, grad_norm**2 - trace / small.tokens)


class Running:
    """The averages over updates."""

    def __init__(self) -> None:
        self._trace = self._square = 0.0

    def add(self, found: Estimate) -> None:
        # Both begin at 0, and are too small by the same factor at first: it falls out of the quotient.
        self._trace = DECAY * self._trace + (1 - DECAY) * found.trace
        self._square = DECAY * self._square + (1 - DECAY) * found.square

    @property
    def scale(self) -> Optional[float]:
        """B_simple, in tokens; None while the averages are not above 0."""
        known = self._trace > 0 and self._square > 0
        return self._trace / self._square if known else None


class SmallGradients:
    """What one update's hooks have seen on this rank."""

    def __init__(self, update: Update, grid: Grid) -> None:
        self.update, self.grid = update, grid
        self.loss_multiple = loss_multiple(update.trainer)
        self.sizes: List[Any] = []  # tokens of each micro-batch
        self.squares: List[List[Tensor]] = []  # of what each of them gives this rank, () fp32 each

    def begins(self) -> None:
        """The forward pass of a micro-batch is next."""
        self.squares.append([])

    def is_computed(self, sample_size: Any) -> None:
        """The forward pass of a micro-batch is over."""
        self.sizes.append(sample_size)

    def see(self, gradient: Tensor) -> None:
        """Take in what the micro-batch at hand gives one parameter, without waiting for it."""
        norm = torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32)
        self.squares[-1].append(norm.square())

    def counted(self) -> List[nn.Parameter]:
        """The parameters whose gradients this rank counts; what model parts hold alike is counted by part 0."""
        is_first = self.grid.model_parallel_rank == 0
        found = (p for _, p, _ in named_pieces(self.update.trainer.get_model()))
        return [p for p in found if p.requires_grad and (is_first or is_model_part(p))]

    def of_all(self, grad_norm: float) -> Optional[Estimate]:
        """What the update says; collective. None where some rank had no batch of its own."""
        is_dummy = any(not sample for sample in self.update.samples)
        small = self._sums()
        *sums, dummies = self._added([*small, float(is_dummy)])
        return None if dummies else estimate(self._joined(Sums(*sums)), grad_norm)

    def _sums(self) -> Sums:
        squares = [self._sum(each) / self.loss_multiple**2 for each in self.squares]
        sizes = [float(size) for size in self.sizes]
        pairs = [(q / size**2, 1 / size) for q, size in zip(squares, sizes, strict=True) if size]
        if self.grid.model_parallel_rank > 0:  # which has the tokens of part 0
            return Sums(sum(q for q, _ in pairs), 0.0, 0.0, 0.0)
        return Sums(
            sum(q for q, _ in pairs), sum(inverse for _, inverse in pairs), len(pairs), sum(sizes)
        )

    def _joined(self, sums: Sums) -> Sums:
        """``sums`` over all ranks, of small batches that they had each for itself."""
        return sums

    def _sum(self, squares: List[Tensor]) -> float:
        return float(torch.stack(squares).sum()) if squares else 0.0

    def _added(self, values: List[float]) -> List[float]:
        mesh = self.grid.mesh
        if mesh is None or not dist.is_initialized():
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=mesh.device_type)
        dist.all_reduce(sums)
        found: List[float] = sums.tolist()
        return found


class SmallShards(SmallGradients):
    """The same where gradients are reduced to shards: the first micro-batch of all ranks is the only small batch."""

    def begins(self) -> None:
        super().begins()
        if len(self.squares) == 2:  # the first one's gradient is there, the mean over the ranks
            for p in self.counted():
                if p.grad is not None:
                    norm = torch.linalg.vector_norm(local(p.grad), dtype=torch.float32)
                    self.squares[0].append(norm.square())

    def _sums(self) -> Sums:
        """As of one rank, but with the first one's tokens for ``inverses``: what they are in all is not known yet."""
        square = self._sum(self.squares[0]) / self.loss_multiple**2
        if self.grid.model_parallel_rank > 0:
            return Sums(square, 0.0, 0.0, 0.0)
        sizes = [float(size) for size in self.sizes]
        return Sums(square, sizes[0], 1.0, sum(sizes))

    def _joined(self, sums: Sums) -> Sums:
        first = sums.inverses
        if not first:
            return Sums(0.0, 0.0, 0.0, sums.tokens)
        mean_of_one = (
            self.grid.data_parallel_size / first
        )  # from the mean over ranks to that over tokens
        return Sums(sums.squares * mean_of_one**2, 1 / first, 1.0, sums.tokens)


@contextmanager
def seeing_small_gradients(
    update: Update, grid: Grid, is_sharded: bool
) -> Iterator[SmallGradients]:
    """Within, what the micro-batches of ``update`` give the parameters is seen."""
    small = (SmallShards if is_sharded else SmallGradients)(update, grid)
    criterion: nn.Module = update.trainer.criterion
    handles: List[Any] = [
        criterion.register_forward_pre_hook(lambda *_: small.begins()),
        criterion.register_forward_hook(lambda module, _, output: small.is_computed(output[1])),
    ]
    if not is_sharded:
        handles += [p.register_hook(small.see) for p in small.counted()]
    try:
        yield small
    finally:
        for handle in handles:
            handle.remove()
