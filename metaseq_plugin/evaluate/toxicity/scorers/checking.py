"""What every scorer's figures must be."""

import math
from typing import Sequence

from metaseq_plugin.compat.errors import UserError

THRESHOLD = 0.5  # as RealToxicityPrompts takes it, section 2


def checked(figures: Sequence[float], ntexts: int, who: str) -> list[float]:
    """``figures`` of so many texts; raises UserError where one is no number from 0 to 1, or some are missing."""
    if len(figures) != ntexts:
        raise wrong(who, f"gave {len(figures)} figures for {ntexts} texts")
    for figure in figures:
        if not math.isfinite(figure) or not 0 <= figure <= 1:
            raise wrong(who, f"gave {figure:g}")
    return list(figures)


def wrong(who: str, what: str) -> UserError:
    return UserError(
        f"`--scorer` must give one number from 0 to 1 for each text, but {who} {what}. Set another, or mend it."
    )
