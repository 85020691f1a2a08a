"""How many documents an epoch draws from each corpus.

The share of corpus c, of size s_c, is in proportion to

    min(s_c, maximum) ^ alpha        alpha 1 keeps the corpora as they are, 0 makes them equal
    the weight given for it          where weights are given

An epoch draws as many documents as there are, so with alpha 1 each of them once. Sizes and shares
count documents, or bytes of the files where the unit is bytes, which are the nearest to tokens that is
known before anything is tokenised: the epoch then draws as many bytes as there are.
"""

import math
from enum import Enum
from typing import NamedTuple, Optional, Sequence

import numpy as np

from metaseq_plugin.compat.errors import UserError

ALPHA_OPTION = "--multicorpus-sampling-alpha"
MAXIMUM_OPTION = "--multicorpus-sampling-maximum"
WEIGHTS_OPTION = "--corpus-weights"


class MixingUnit(str, Enum):
    """What the sizes and shares of corpora count."""

    documents = "documents"
    bytes = "bytes"


class Mixing(NamedTuple):
    """The settings; the defaults take every corpus as it is."""

    alpha: float = 1.0
    maximum: Optional[float] = None  # in units
    weights: Optional[dict[str, float]] = None
    unit: MixingUnit = MixingUnit.documents


def parse_weights(text: Optional[str]) -> Optional[dict[str, float]]:
    """``name=weight,…`` as a dict; UserError for anything else."""
    if text is None:
        return None
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not name or name in weights or not 0 <= weight < math.inf:
            raise UserError(
                f"`{WEIGHTS_OPTION}` must be name=weight pairs, each name once and no weight below "
                f"0, but has '{part}'. Set for example wiki=1,books=2."
            )
        weights[name] = weight
    if not any(weights.values()):
        raise UserError(
            f"`{WEIGHTS_OPTION}` must have a weight above 0, but is '{text}'. Set one for each "
            "corpus that is to be used."
        )
    return weights


def check_mixing(mixing: Mixing) -> None:
    """Raise UserError for settings that are out of range or would be ignored."""
    if not 0 <= mixing.alpha < math.inf:
        raise UserError(
            f"`{ALPHA_OPTION}` must be at least 0, but is {mixing.alpha}. Set 1 to take the corpora "
            "as they are."
        )
    if mixing.maximum is not None and not mixing.maximum > 0:
        raise UserError(
            f"`{MAXIMUM_OPTION}` must be above 0, but is {mixing.maximum}. Leave it out to set no "
            "limit."
        )
    if mixing.weights is not None and (mixing.alpha != 1 or mixing.maximum is not None):
        raise UserError(
            f"`{WEIGHTS_OPTION}` must stand alone, but {ALPHA_OPTION} or {MAXIMUM_OPTION} is set "
            "too. Leave one of them out."
        )


def shares(names: Sequence[str], sizes: np.ndarray, mixing: Mixing) -> np.ndarray:
    """The share (C,) of each corpus of ``sizes`` (C,) units, 1 in all."""
    if mixing.weights is None:
        capped = np.minimum(sizes, np.inf if mixing.maximum is None else mixing.maximum)
        wanted = capped.astype(np.float64) ** mixing.alpha
    else:
        if set(mixing.weights) != set(names):
            raise UserError(
                f"`{WEIGHTS_OPTION}` must name each corpus ({', '.join(sorted(names))}), but names "
                f"{', '.join(sorted(mixing.weights))}. Set 0 for one that is not to be used."
            )
        wanted = np.array([mixing.weights[name] for name in names])
    return wanted / wanted.sum()


def whole_numbers(amounts: np.ndarray) -> np.ndarray:
    """``amounts`` as whole numbers of the same (rounded) sum, each less than 1 away."""
    lower = np.floor(amounts).astype(np.int64)
    missing = round(float(amounts.sum())) - int(lower.sum())
    lower[np.argsort(-(amounts - lower), kind="stable")[:missing]] += 1
    return lower


def documents_drawn(
    names: Sequence[str], num_documents: np.ndarray, num_bytes: np.ndarray, mixing: Mixing
) -> np.ndarray:
    """Documents (C,) that an epoch draws from each corpus.

    Args:
        num_documents: (C,) int64, of each corpus, none of them 0.
        num_bytes: (C,) int64.
    """
    if mixing.unit is MixingUnit.bytes:
        mean_bytes = num_bytes / num_documents
        drawn = shares(names, num_bytes, mixing) * num_bytes.sum() / mean_bytes
    else:
        drawn = shares(names, num_documents, mixing) * num_documents.sum()
    return whole_numbers(drawn)
