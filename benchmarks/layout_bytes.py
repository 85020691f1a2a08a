"""What a rank holds of each size in its layout, as a Markdown table.

    python -m benchmarks.layout_bytes

Nothing is built: the table is the formula of ``metaseq_plugin/launch/rank_bytes.py``, which
``tests/distributed/test_scale.py`` holds against the engine's own modules, byte by byte.
"""

from typing import Iterator

from metaseq_plugin.launch.rank_bytes import LAYOUTS, rank_bytes, rank_elements
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.sizes import SIZES

HEADER = (
    "size", "parameters", "TP × shards", "ranks", "rank",
    "parameters, bytes", "gradients, bytes", "optimizer, bytes", "sum, GB",
)  # fmt: skip


def rows() -> Iterator[tuple[str, ...]]:
    """Two rows a size: the first rank, of which no other holds more, and the last."""
    for name, layout in LAYOUTS.items():
        size, num_ranks = SIZES[name], layout.num_ranks
        num_parameters = sum(rank_elements(size, Layout(1, 1), rank=0))
        cut = f"{layout.model_parallel_size} × {layout.num_shards}"
        whole = (name, f"{num_parameters:,}", cut, f"{num_ranks:,}")
        for rank in (0, num_ranks - 1):
            held = rank_bytes(size, layout, rank)
            numbers = (*(f"{number:,}" for number in held), f"{held.total / 1e9:.3f}")
            yield (*(whole if rank == 0 else [""] * len(whole)), f"{rank:,}", *numbers)


def table() -> str:
    """``rows`` as Markdown, with the numbers to the right."""
    rule = ["---"] + ["---:"] * (len(HEADER) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEADER, rule, *rows()))


if __name__ == "__main__":
    print(table())
