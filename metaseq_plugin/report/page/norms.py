"""Norms of activations, weights and gradients, layer by layer, as plots: one for each kind.

    by_kind({"activations": [3.1], "weights": [9.2, 40.0]})
    # {"activations": {"layer 0": 3.1}, "weights": {"layer 0": 9.2, "outside the layers": 40.0}}

As ``ledger/norms.py`` writes them: a list for each kind, of the layers in order, and for weights and gradients one entry
more, of all that is outside of them. Of a deep model as many layers as a plot can tell apart are drawn, from the first
to the last; ``updates.jsonl`` has all of them.
"""

from typing import Any, Mapping, Sequence

from metaseq_plugin.ledger.history import seconds

MOST_LINES = 8
OUTSIDE = "outside the layers"
UNITS = {"activations": "root mean square", "weights": "L2", "gradients": "L2, before clipping"}
Norms = dict[str, dict[str, float]]


def by_kind(norms: Mapping[str, Any]) -> Norms:
    """Kind -> name -> norm, of what a line of updates.jsonl holds; what is no number is left out."""
    rows = {kind: row for kind, row in norms.items() if isinstance(row, list)}
    layers = min(map(len, rows.values()), default=0)
    found = {
        str(kind): {name_of(place, layers): float(value) for place, value in enumerate(row) if seconds(value) is not None}
        for kind, row in rows.items()
    }  # fmt: skip
    return {kind: named for kind, named in found.items() if named}


def name_of(place: int, layers: int) -> str:
    return f"layer {place}" if place < layers else OUTSIDE


def chosen(names: Sequence[str], most: int) -> list[str]:
    """At most ``most`` of ``names``, the first and the last among them, evenly between."""
    if len(names) <= most:
        return list(names)
    return [names[round(place * (len(names) - 1) / (most - 1))] for place in range(most)]
