"""Norms of activations, weights and gradients, layer by layer, as plots: one for each kind.

    by_kind({"gradients": {"layers.0": 0.2}})        # the same; also {"gradients": [0.2]} and {"layers.0": 0.2}

Of a deep model as many layers as a plot can tell apart are drawn, from the first to the last; ``updates.jsonl`` has
all of them.
"""

from typing import Any, Iterable, Mapping, Sequence

from metaseq_plugin.ledger.history import seconds

MOST_LINES = 8
Norms = dict[str, dict[str, float]]


def by_kind(norms: Mapping[str, Any]) -> Norms:
    """Kind -> name -> norm, of what a line of updates.jsonl holds; what is no number is left out."""
    found: Norms = {}
    for name, inner in norms.items():
        if isinstance(inner, Mapping):
            named: Iterable[tuple[Any, Any]] = inner.items()
        elif isinstance(inner, (list, tuple)):
            named = ((f"layer {number}", value) for number, value in enumerate(inner))
        else:
            named, name = ((name, inner),), "norms"
        numbers = {str(key): float(value) for key, value in named if seconds(value) is not None}
        if numbers:
            found.setdefault(name, {}).update(numbers)
    return found


def chosen(names: Sequence[str], most: int) -> list[str]:
    """At most ``most`` of ``names``, the first and the last among them, evenly between."""
    if len(names) <= most:
        return list(names)
    return [names[round(place * (len(names) - 1) / (most - 1))] for place in range(most)]
