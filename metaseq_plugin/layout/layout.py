"""How many ways a model is cut, and which numbers that must divide.

A layout has ``model_parallel_size`` parts (tensor parallelism), each cut into ``num_shards`` shards (FSDP):
rank r of a sharded run holds part r % model_parallel_size, shard r // model_parallel_size.
"""

from typing import Iterator, List, Mapping, NamedTuple

from metaseq_plugin.compat.errors import UserError

FULLY_SHARDED = "fully_sharded"  # the --ddp-backend that shards
LARGEST_NAMED = 512  # of the divisors that a message names; more ranks hold no model together


class Layout(NamedTuple):
    """How many ways a model is cut, and over how many ranks its data position counts.

    ``num_shards`` is the data-parallel size with fully_sharded; without it every rank holds shard 0 of 1.
    """

    model_parallel_size: int = 1
    num_shards: int = 1
    data_parallel_size: int = 1

    @property
    def num_ranks(self) -> int:
        """Ranks that hold the whole model together."""
        return self.model_parallel_size * self.num_shards

    def check(self) -> None:
        """Refuse fewer than one part or shard."""
        for option, number in (
            ("--model-parallel-size", self.model_parallel_size),
            ("--num-shards", self.num_shards),
        ):
            if number < 1:
                raise UserError(
                    f"`{option}` must be at least 1, but is {number}. Set 1 to not cut."
                )


def divisors(*numbers: int) -> List[int]:
    """The common divisors of ``numbers`` that are worth naming."""
    largest = min(*numbers, LARGEST_NAMED)
    return [d for d in range(1, largest + 1) if all(n % d == 0 for n in numbers)]


def indivisible(model_parallel_size: int, cut: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each number that the model parts cannot share out evenly.

    Args:
        cut: what is cut, in words -> how much of it there is.
    """
    for what, number in cut.items():
        if number % model_parallel_size:
            fits = ", ".join(map(str, divisors(*cut.values())))
            yield (
                f"`--model-parallel-size` must divide {what} ({number}), but is "
                f"{model_parallel_size}. Set one of {fits}."
            )


def check_divides(model_parallel_size: int, cut: Mapping[str, int]) -> None:
    """Refuse a number of model parts that does not divide what they share out; ``cut`` as above."""
    problem = next(indivisible(model_parallel_size, cut), None)
    if problem is not None:
        raise UserError(problem)
