"""An update's batch, given in tokens, as what each rank takes: ``--batch-size`` times ``--update-freq``.

    deal(Asked(batch_tokens=524_288), num_ranks=16, model_parallel_size=2)    # Batch(8, 4, 524_288)

The ranks of one model part's neighbours see the same batch, so that there are num_ranks / model_parallel_size
data-parallel ranks:

    batch tokens = block x --batch-size x --update-freq x data-parallel ranks

What does not divide is refused; metaseq floored it, to 0 where there were many ranks.
"""

from typing import NamedTuple, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.sizes import MAX_POSITIONS

# Sequences of 2,048 tokens that a rank computes at a time where nobody said how many: what OPT-175B's
# ranks took on 80 GB (metaseq issue 223).
LARGEST_BATCH_SIZE = 8
UNITS = {"K": 1024, "M": 1024 * 1024, "G": 1024 * 1024 * 1024}  # as metaseq counts batches


class Asked(NamedTuple):
    """What is known of a batch; None is to be found.

    Attributes:
        batch_tokens: of an update, of all ranks.
        block: tokens of a sequence.
        batch_size: sequences that a data-parallel rank computes at a time.
        update_freq: how many times it does so in an update.
    """

    batch_tokens: int
    block: int = MAX_POSITIONS
    batch_size: Optional[int] = None
    update_freq: Optional[int] = None


class Batch(NamedTuple):
    """What each data-parallel rank takes, and what that makes in all."""

    batch_size: int
    update_freq: int
    batch_tokens: int


def deal(asked: Asked, num_ranks: int, model_parallel_size: int = 1) -> Batch:
    """Share out an update's sequences.

    Where both ``batch_size`` and ``update_freq`` are given, they make the batch; ``batch_tokens`` is not asked.

    Args:
        num_ranks: a multiple of ``model_parallel_size``.

    Raises:
        UserError: the ranks cannot take the same whole number of sequences; says what is nearest.
    """
    num_shards = num_ranks // model_parallel_size
    for option, number in (
        ("--batch-size", asked.batch_size),
        ("--update-freq", asked.update_freq),
        ("--tokens-per-sample", asked.block),
    ):
        if number is not None and number < 1:
            raise UserError(f"`{option}` must be at least 1, but is {number}. Set more.")
    if asked.batch_size is not None and asked.update_freq is not None:
        tokens = asked.batch_size * asked.update_freq * num_shards * asked.block
        return Batch(asked.batch_size, asked.update_freq, tokens)

    unit = num_shards * asked.block * (asked.batch_size or 1) * (asked.update_freq or 1)
    if asked.batch_tokens < 1 or asked.batch_tokens % unit:
        raise UserError(indivisible(asked, unit, num_ranks, model_parallel_size))
    sequences = asked.batch_tokens // asked.block // num_shards  # of a rank
    if asked.update_freq is not None:
        return Batch(sequences // asked.update_freq, asked.update_freq, asked.batch_tokens)
    batch_size = asked.batch_size or largest_batch_size(sequences, asked.block)
    return Batch(batch_size, sequences // batch_size, asked.batch_tokens)


def largest_batch_size(sequences: int, block: int) -> int:
    """The largest divisor of ``sequences`` whose tokens are those of ``LARGEST_BATCH_SIZE`` or fewer."""
    most = max(1, LARGEST_BATCH_SIZE * MAX_POSITIONS // block)
    return max(
        divisor for divisor in range(1, min(most, sequences) + 1) if sequences % divisor == 0
    )


def indivisible(asked: Asked, unit: int, num_ranks: int, model_parallel_size: int) -> str:
    """The sentence for a batch that is no multiple of ``unit`` tokens."""
    below = asked.batch_tokens // unit * unit
    nearest = [below + unit] if below < 1 else [below, below + unit]
    factors = [
        f"{num_ranks // model_parallel_size:,} data-parallel ranks x {asked.block:,} tokens",
        *(f"--batch-size {asked.batch_size}" for _ in range(asked.batch_size is not None)),
        *(f"--update-freq {asked.update_freq}" for _ in range(asked.update_freq is not None)),
    ]
    ways = [f"--batch-tokens {' or '.join(map(str, nearest))}"]
    ranks = fitting_ranks(asked, num_ranks, model_parallel_size)
    if ranks:
        ways.append(f"{' or '.join(f'{number:,}' for number in ranks)} ranks")
    return (
        f"`--batch-tokens` must be a multiple of {unit:,} ({' x '.join(factors)}), but is "
        f"{asked.batch_tokens:,}. Set {', or '.join(ways)}."
    )


def fitting_ranks(asked: Asked, num_ranks: int, model_parallel_size: int) -> list[int]:
    """The numbers of ranks next to ``num_ranks`` that the batch can be shared out to."""
    unit = asked.block * (asked.batch_size or 1) * (asked.update_freq or 1)
    if asked.batch_tokens < 1 or asked.batch_tokens % unit:
        return []
    units = asked.batch_tokens // unit
    fits = [d * model_parallel_size for d in range(1, units + 1) if units % d == 0]
    below = [ranks for ranks in fits if ranks < num_ranks][-1:]
    return below + [ranks for ranks in fits if ranks > num_ranks][:1]


def read_tokens(text: str, option: str) -> int:
    """``524288``, ``512K`` or ``0.5M`` (of 1,024 and 1,024²) as a number of tokens.

    Raises:
        UserError: anything else, or no whole number of them.
    """
    number, unit = (text[:-1], UNITS[text[-1].upper()]) if text[-1:].upper() in UNITS else (text, 1)
    try:
        tokens = float(number.replace("_", "").replace(",", "")) * unit
        if tokens < 1 or tokens != int(tokens):
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(
            f"`{option}` must be a number of tokens, but is {text}. Set for example 524288 or 0.5M."
        ) from None
    return int(tokens)
