"""Sums over a run's lines, and the numbers that follow from them, each with where it is from.

    totals = Totals()
    for line in lines:
        totals.add(line, share_lost)
    numbers_of(totals, what, metered, spans, settings, problems)

    model_flops      tokens · FLOPs a token, of every update that was made: lost ones have cost as much
    device_hours     devices · hours of all starts, from begin to end
    device_kwh       what meters read (``node_energy.py``), else what the lines say, else rated power · device-hours
    kwh              device_kwh · PUE                 (``energy.py``)
    co2e             kWh · g/kWh / 1000               (``carbon.py``)

PUE and intensity are --pue and --carbon-intensity of the run, or of the report; else the defaults of those files.
"""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger import carbon, energy
from metaseq_plugin.ledger.account import ASSUMED, ESTIMATED, GIVEN, MEASURED, UNKNOWN, Number
from metaseq_plugin.ledger.history import seconds, whole
from metaseq_plugin.ledger.rates import device
from metaseq_plugin.storage.json_lines import Row

MOST_PUE = 10.0
RECENT = 20  # lines by which the time to go is estimated
MEANS = ("tflops", "mfu", "hfu")


class Totals:
    """Of all lines, kept and lost."""

    def __init__(self) -> None:
        self.tokens = self.tokens_lost = self.seconds = 0.0
        self.loss: Optional[float] = None  # of the last line that has one
        self.joules: Optional[float] = None
        self.energy_is: set[str] = set()
        self._sums: Dict[str, float] = {}
        self._weights: Dict[str, float] = {}
        self._recent: List[Row] = []

    def add(self, line: Row, share_lost: float) -> None:
        tokens = seconds(line.get("ntokens"), 0.0) or 0.0
        spent = seconds(line.get("seconds"), 0.0) or 0.0
        self.tokens += tokens
        self.tokens_lost += tokens * share_lost
        self.seconds += spent
        loss = seconds(line.get("loss"))
        self.loss = self.loss if loss is None else loss
        joules = seconds(line.get("joules"))
        if joules is not None:
            self.joules = (self.joules or 0.0) + joules
            self.energy_is.add(str(line.get("energy_is")))
        for name in MEANS:
            value = seconds(line.get(name))
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + value * spent
                self._weights[name] = self._weights.get(name, 0.0) + spent
        self._recent.append(line)
        if len(self._recent) > 2 * RECENT:
            del self._recent[:-RECENT]

    def mean(self, name: str) -> Optional[float]:
        """Over the seconds of all lines that have it."""
        weight = self._weights.get(name, 0.0)
        return self._sums[name] / weight if weight > 0 else None

    def seconds_per_update(self) -> Optional[float]:
        """By the last lines."""
        recent = self._recent[-RECENT:]
        updates = sum(line["updates"] for line in recent)
        spent = sum(seconds(line.get("seconds"), 0.0) or 0.0 for line in recent)
        return spent / updates if updates > 0 and spent > 0 else None


class Settings(NamedTuple):
    """What the report was told, over what the run was; None: as the run."""

    pue: Optional[float] = None
    intensity: Optional[str] = None


class Devices(NamedTuple):
    """What a run computed on; None: the ledger does not say."""

    number: Optional[int]
    name: Optional[str]


Span = Tuple[Devices, float]  # of one start: what it ran on, and its seconds


class Metered(NamedTuple):
    """What the machines' own files of energy say together."""

    joules: float
    is_measured: bool
    sources: str


def numbers_of(
    totals: Totals,
    what: Mapping[str, Any],
    metered: Optional[Metered],
    spans: "Sequence[Span]",
    settings: Settings,
    problems: List[str],
) -> Dict[str, Number]:
    """All numbers of the account.

    Args:
        what: the last start, with its options and what ``ready`` said.
        spans: of each start its devices and seconds.
        problems: sentences are added to it.
    """
    found: Dict[str, Number] = {
        "loss": said(totals.loss, "bits a token", MEASURED, "of the last line"),
        "ppl": said(power_of_two(totals.loss), "", MEASURED, "2 ^ loss"),
        "tokens_per_second": ratio(totals.tokens, totals.seconds),
    }
    for name in MEANS:
        unit = "TFLOP/s a device" if name == "tflops" else "of the peak"
        found[name] = said(
            totals.mean(name), unit, ESTIMATED, "mean over the lines, by their seconds"
        )
    found.update(flops(totals, what))
    devices = devices_of(what)
    found["device_hours"] = device_hours(spans, devices)
    options = what.get("options")
    options = options if isinstance(options, Mapping) else {}
    found["device_kwh"] = device_energy(totals, metered, devices, found["device_hours"], options)
    found["pue"] = read_setting(
        settings.pue, options.get("task.pue"), read_pue, energy.PUE, problems
    )
    found["kwh"] = product(
        found["device_kwh"], found["pue"], 1.0, "kWh", "{0:.4g} kWh × PUE {1:.4g}"
    )
    of_run = options.get("task.carbon_intensity")
    found["intensity"] = read_setting(
        settings.intensity, of_run, read_intensity, carbon.INTENSITY, problems
    )
    found["co2e"] = product(
        found["kwh"], found["intensity"], 1e-3, "kg", "{0:.4g} kWh × {1:.4g} g/kWh / 1000"
    )
    return found


def said(value: Optional[float], unit: str, basis: str, formula: str) -> Number:
    """A number; unknown where there is no value."""
    if value is None:
        return Number(None, unit, UNKNOWN, "not in the ledger")
    return Number(value, unit, basis, formula)


def power_of_two(loss: Optional[float]) -> Optional[float]:
    return 2.0**loss if loss is not None and abs(loss) < 1000 else None


def ratio(tokens: float, spent: float) -> Number:
    if spent <= 0:
        return Number(None, "tokens/s", UNKNOWN, "no line has seconds")
    return Number(tokens / spent, "tokens/s", MEASURED, f"{tokens:.6g} tokens / {spent:.6g} s")


def flops(totals: Totals, what: Mapping[str, Any]) -> Dict[str, Number]:
    """Operations of all tokens, by each convention that the start tells the price of one in."""
    found = {}
    for name, price in (
        ("model_flops", "flops_per_token"),
        ("model_flops_causal", "causal_flops_per_token"),
        ("hardware_flops", "hardware_flops_per_token"),
    ):
        each = seconds(what.get(price))
        if each is None:
            found[name] = Number(None, "FLOPs", UNKNOWN, f"no {price} in the ledger")
        else:
            formula = f"{totals.tokens:.6g} tokens × {each:.6g} FLOPs"
            found[name] = Number(totals.tokens * each, "FLOPs", ESTIMATED, formula)
    return found


def devices_of(what: Mapping[str, Any]) -> Devices:
    """How many, and their name, by what a start says of its hardware."""
    hardware = what.get("hardware")
    hardware = hardware if isinstance(hardware, Mapping) else {}
    count, name = whole(hardware.get("devices")), hardware.get("device")
    return Devices(
        count if count is not None and count > 0 else None, name if isinstance(name, str) else None
    )


def device_hours(spans: "Sequence[Span]", last: Devices) -> Number:
    """Of all starts, which may have had more devices or fewer; one that does not say had as many as the last."""
    hours: Dict[int, float] = {}
    for devices, spent in spans:
        number = devices.number or last.number
        if number is None:
            return Number(None, "h", UNKNOWN, "the ledger does not say how many devices there were")
        hours[number] = hours.get(number, 0.0) + spent / 3600
    formula = " + ".join(
        f"{number} device{'' if number == 1 else 's'} × {each:.4g} h"
        for number, each in hours.items()
    )
    return Number(sum(number * each for number, each in hours.items()), "h", MEASURED, formula)


def device_energy(
    totals: Totals,
    metered: Optional[Metered],
    devices: Devices,
    hours: Number,
    options: Mapping[str, Any],
) -> Number:
    """Kilowatt-hours of the devices alone."""
    if metered is not None:
        basis = MEASURED if metered.is_measured else ESTIMATED
        return Number(metered.joules / energy.JOULES_OF_KWH, "kWh", basis, metered.sources)
    if totals.joules is not None:
        basis = MEASURED if totals.energy_is == {MEASURED} else ESTIMATED
        return Number(
            totals.joules / energy.JOULES_OF_KWH, "kWh", basis, "sum of the lines' joules"
        )
    watts, source = rated(devices, options)
    if watts is None or hours.value is None:
        return Number(None, "kWh", UNKNOWN, hours.formula if watts is not None else source)
    formula = f"{hours.value:.4g} device-hours × {watts:g} W ({source})"
    return Number(hours.value * watts / 1000, "kWh", ESTIMATED, formula)


def rated(devices: Devices, options: Mapping[str, Any]) -> "tuple[Optional[float], str]":
    """Watts of a device and their source; or None and why they are unknown."""
    watts = seconds(options.get("task.device_watts"))
    if watts is not None and watts > 0:
        return watts, "--device-watts"
    if devices.name is None:
        return None, "no meter was read, and the ledger does not name the device"
    try:
        row = device(devices.name)
    except UserError:
        return None, f"no meter was read, and the rated power of {devices.name} is not known"
    return row.watts, f"rated power of the {row.name}: {row.sources['watts']}"


def read_setting(
    told: Any, of_run: Any, read: Callable[[Any], Number], default: Any, problems: List[str]
) -> Number:
    """What the report was told, else the run, else the default; an absurd one of a ledger is said, and unknown."""
    if told is not None:
        return read(told)
    if of_run is None:
        return read(default)
    try:
        return read(of_run)
    except UserError as error:
        problems.append(f"The ledger's options are none that a run takes: {error}")
        return Number(None, "", UNKNOWN, f"{of_run} in the ledger")


def read_pue(value: Any) -> Number:
    """PUE.

    Raises:
        UserError: it is below 1, or absurd.
    """
    number = seconds(value)
    if number is None or not 1 <= number <= MOST_PUE:
        raise UserError(
            f"`--pue` must be 1 to {MOST_PUE:g}, but is {value}. LLaMA's paper assumed {energy.PUE:g}."
        )
    if number == energy.PUE:
        return Number(number, "", ASSUMED, "LLaMA, arXiv:2302.13971 (February 2023), section 6")
    return Number(number, "", GIVEN, "--pue")


def read_intensity(value: Any) -> Number:
    """g/kWh of a number, or of a country.

    Raises:
        UserError: neither.
    """
    grams, source = carbon.intensity_of(str(value), "--carbon-intensity")
    return Number(grams, "g/kWh", ASSUMED if grams == carbon.INTENSITY else GIVEN, source)


def product(one: Number, other: Number, factor: float, unit: str, formula: str) -> Number:
    """Of a number and a setting, which is never measured for a run; unknown where one of them is."""
    if one.value is None or other.value is None:
        return Number(None, unit, UNKNOWN, (one if one.value is None else other).formula)
    text = formula.format(one.value, other.value)
    return Number(one.value * other.value * factor, unit, ESTIMATED, f"{text} ({other.basis})")
