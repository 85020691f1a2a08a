"""Logits that are not finite end a generation: no text follows from them.

What is looked at are numbers that the host reads anyway, so that it waits no more often: a token's score
is NaN or infinite where a logit is, and so is what ``Sampler.choose`` gives in its place where none is
asked for.
"""

import math
from typing import Any, Iterable, Sequence

import torch

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.models.opt import OPTLanguageModel


class NotFinite(UserError):
    """Logits that are NaN or infinite.

    Attributes:
        rows: the batch's rows that have them, which it has given up; others go on. Empty: not told.
    """

    rows: Sequence[Any] = ()


def check_scores(scores: Iterable[float], models: Sequence[OPTLanguageModel]) -> None:
    """Refuse scores that are NaN or infinite, naming the data type that ``models`` compute in."""
    if not all(map(math.isfinite, scores)):
        raise not_finite(models)


def not_finite(models: Sequence[OPTLanguageModel], rows: Sequence[Any] = ()) -> NotFinite:
    """The error, naming the data type that ``models`` compute in."""
    dtypes = {model.output_weight.dtype for model in models}
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    remedy = (
        "Set `dtype` bfloat16 or float32, or leave --fp16 out: its largest number is "
        f"{torch.finfo(torch.float16).max:,.0f}."
        if torch.float16 in dtypes
        else "Use another checkpoint: this one's weights are NaN or too large to compute with."
    )
    error = NotFinite(
        f"The model's logits must be finite, but in {names} some are NaN or infinite. {remedy}"
    )
    error.rows = rows
    return error
