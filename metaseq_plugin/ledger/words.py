"""Numbers and times as people read them, in the report, its page and the chronicle.

quantity(0.00031, "kWh")        # "0.31 Wh"
duration(3700)                  # "1.03 h"
shares([1, 1, 1])               # ["33.4 %", "33.3 %", "33.3 %"]
"""

import time
from typing import Optional, Sequence

SPENT = {  # account.KINDS
    "starting": "starting",
    "computing": "computing",
    "waiting": "waiting for data",
    "saving": "saving",
    "validating": "validating",
    "rewinding": "rewinding",
    "restarting": "restarting",
    "idle": "idle between starts",
    "lost": "updates that were lost",
    "unknown": "not known",
}
# Unit -> [(how much of it one of the next unit is, that unit)], from large to small.
LARGER = {
    "kWh": [(1e3, "MWh"), (1.0, "kWh"), (1e-3, "Wh")],
    "kg": [(1e3, "t"), (1.0, "kg"), (1e-3, "g"), (1e-6, "mg")],
    "TFLOP/s": [(1.0, "TFLOP/s"), (1e-3, "GFLOP/s")],
    "TFLOP/s a device": [(1.0, "TFLOP/s a device"), (1e-3, "GFLOP/s a device")],
    "bytes": [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")],
}
PEAK, FLOPS = "of the peak", "FLOPs"
MANY, POWERS = 1e12, 1e9  # from here on as powers of ten


def quantity(value: Optional[float], unit: str) -> str:
    """Four digits that count, in the unit that suits; "unknown" where there is none."""
    if value is None:
        return "unknown"
    if unit == PEAK:
        return f"{100 * value:.3g} %"
    for size, name in LARGER.get(unit, ()):
        if abs(value) >= size or name == LARGER[unit][-1][1]:
            return f"{value / size:.4g} {name}"
    if abs(value) >= (POWERS if unit == FLOPS else MANY):
        text = f"{value:.3e}".replace("e+", "e")
    elif abs(value) >= 1e4:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}"
    return f"{text} {unit}".strip()


def duration(seconds: float) -> str:
    """In the unit that suits: 3.1 s, 14 min, 13.7 h, 4.2 days."""
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size * 2:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def day(when: float) -> str:
    """2026-11-27, UTC."""
    return formatted("%Y-%m-%d", when)


def clock(when: float) -> str:
    """19:04, UTC."""
    return formatted("%H:%M", when)


def formatted(form: str, when: float) -> str:
    """Of a time that no calendar has, as a damaged line may hold, "?"."""
    try:
        return time.strftime(form, time.gmtime(when))
    except (OverflowError, ValueError, OSError):
        return "?"


def shares(parts: Sequence[float]) -> list[str]:
    """Per cent of the whole, to a tenth, that add up to 100.0: what rounding leaves goes to the largest rests."""
    whole = sum(parts)
    if whole <= 0:
        return []
    exact = [1000 * part / whole for part in parts]
    tenths = [int(share) for share in exact]
    by_rest = sorted(range(len(parts)), key=lambda place: tenths[place] - exact[place])
    for place in by_rest[: 1000 - sum(tenths)]:
        tenths[place] += 1
    return [f"{tenth / 10:.1f} %" for tenth in tenths]
