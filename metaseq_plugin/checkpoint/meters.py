"""The sums of fairseq's log that a checkpoint keeps, held against what fairseq's meters do with them."""

from typing import Any, List, Mapping, Optional, TypedDict, Union

from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage.typed import Fault, check

Number = Union[float, Tensor]  # a tensor of one


class _Average(TypedDict):
    val: Optional[Number]
    sum: Number
    count: Number


class _Sum(TypedDict):
    sum: Number


class _Time(TypedDict):
    init: Number
    n: Number


class _Stopwatch(TypedDict):
    sum: Number
    n: Number


# fairseq.logging.meters: class -> what its state must hold.
KINDS = {
    "AverageMeter": _Average,
    "SumMeter": _Sum,
    "TimeMeter": _Time,
    "StopwatchMeter": _Stopwatch,
}


def check_meters(metrics: Mapping[str, List[Any]], source: Any) -> None:
    """Refuse meters that fairseq does not know, or that could not count on.

    Args:
        metrics: ``extra_state["metrics"]``: by aggregator, (priority, name, class, state) of each meter.

    Raises:
        UserError: naming the first of them.
    """
    for aggregator, meters in metrics.items():
        for place, (_, _, kind, state) in enumerate(meters):
            where = f"extra_state.metrics.{aggregator}.{place}"
            if kind not in KINDS:
                fault = Fault(f"{where}.2", f"one of {', '.join(KINDS)}", kind)
                raise UserError(fault.sentence(source))
            check(state, KINDS[kind], f"{where}.3", source)
            check(state.get("round"), Optional[int], f"{where}.3.round", source)
            for name, value in state.items():
                if isinstance(value, Tensor) and value.numel() != 1:
                    raise UserError(Fault(f"{where}.3.{name}", "a number", value).sentence(source))
