"""Say what energy a computation took, and its CO2e.

Each number has its inputs and its formula beside it.

    metaseq carbon --gpus 992 --gpu a100-80gb --hours 816       OPT-175B by LLaMA's method
    metaseq carbon --gpus 1 --watts 400 --hours 1082990 --pue 1 --intensity 57          BLOOM
    metaseq carbon --kwh 12.7 --intensity FRA                   a run whose meter was read

    device-hours = GPUs · hours            kWh (devices) = device-hours · W · power share / 1000, or --kwh
    kWh (idle)   = kWh (devices) · idle share             kWh = (devices + idle) · PUE         kg = kWh · g/kWh / 1000

W is the rated power of the device in the table, or --watts. The idle share is the energy of machines that wait, over
that of those that compute. Making the machines is not in it. --json prints the same numbers. docs/energy.md has what papers
stated, from the inputs that each used. A run's own account, from its meters, is `metaseq report RUN`.
"""

import argparse
import json
import math
from textwrap import wrap
from typing import Any, Iterator, NamedTuple, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.carbon import INTENSITIES, INTENSITY, Intensity, emitted, intensity_of
from metaseq_plugin.ledger.energy import PUE, energy
from metaseq_plugin.ledger.rates import DEVICES, device

WIDTH, TITLE_WIDTH = 80, 12


class Power(NamedTuple):
    """Watts of one device, and where the number is from."""

    watts: float
    source: str


class Account(NamedTuple):
    """The answer; energy in kWh, mass in kg. ``device_hours`` and ``power`` are None where --kwh was given.

    Attributes:
        computing_kwh: at the devices.
        idle_kwh: of those that wait.
        facility_kwh: both, at the building's meter.
        carbon_kg: CO2 equivalents.
        energy_is: "measured" where --kwh was given, which somebody read; else "estimated".
    """

    device_hours: Optional[float]
    power: Optional[Power]
    computing_kwh: float
    idle_kwh: float
    facility_kwh: float
    carbon_kg: float
    intensity: Intensity
    energy_is: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpus", type=int, metavar="N", help="devices that ran at a time")
    parser.add_argument("--hours", type=float, metavar="X", help="that each of them ran; with --gpus 1, device-hours")  # fmt: skip
    parser.add_argument("--gpu", metavar="NAME", help=f"{', '.join(row.name for row in DEVICES)}, or its driver's name")  # fmt: skip
    parser.add_argument("--watts", type=float, metavar="W", help="of a device (default: the rated power of --gpu)")  # fmt: skip
    parser.add_argument("--power-share", type=float, default=1.0, metavar="X", help="mean power as a share of that (default: 1)")  # fmt: skip
    parser.add_argument("--kwh", type=float, metavar="X", help="of the devices, where it was measured; in the place of all above")  # fmt: skip
    parser.add_argument("--idle-share", type=float, default=0.0, metavar="X", help="energy of waiting over that of computing (default: 0)")  # fmt: skip
    parser.add_argument("--pue", type=float, default=PUE, metavar="X", help=f"energy of the building over that of its machines (default: {PUE:g}, LLaMA's)")  # fmt: skip
    parser.add_argument("--intensity", default=f"{INTENSITY:g}", metavar="G", help=f"g CO2e/kWh, or one of {', '.join(INTENSITIES)}; codecarbon, if installed, knows all countries (default: {INTENSITY:g}, the United States')")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> None:
    """Print the account."""
    found = account(args)
    words = (
        json.dumps(as_json(args, found), indent=2) if args.json else "\n".join(lines(args, found))
    )
    print(words)  # noqa: T201


def account(args: argparse.Namespace) -> Account:
    """The formulas.

    Raises:
        UserError: what is missing, or out of its range; all of it in one message.
    """
    problems = [*missing(args), *ranges(args)]
    if problems:
        raise UserError(*problems)
    grams = intensity_of(args.intensity)
    hours, power, computing = None, None, args.kwh
    if computing is None:
        hours, power = args.gpus * args.hours, power_of(args)
        computing = energy(hours, power.watts, args.pue, args.power_share).device_kwh
    idle = computing * args.idle_share
    facility = (computing + idle) * args.pue
    return Account(
        hours, power, computing, idle, facility, emitted(facility, grams.grams), grams,
        "estimated" if args.kwh is None else "measured",
    )  # fmt: skip


def power_of(args: argparse.Namespace) -> Power:
    if args.watts is not None:
        return Power(args.watts, "given")
    row = device(args.gpu)
    return Power(row.watts, f"rated power of {row.name} ({row.sources['watts']})")


def missing(args: argparse.Namespace) -> Iterator[str]:
    """What is asked for twice, or not at all."""
    used = [name for name in ("gpus", "hours", "gpu", "watts") if vars(args)[name] is not None]
    if args.kwh is not None:
        if used:
            yield f"`--kwh` must come without --{used[0]}, but both are set. Leave one out."
        return
    for name, what in (("gpus", "how many devices ran"), ("hours", "how long")):
        if vars(args)[name] is None:
            yield f"`--{name}` must say {what}, but is missing. Set it, or --kwh."
    if args.gpu is None and args.watts is None:
        yield "`--gpu` must name the device, but is missing. Set it, or --watts, or --kwh."


def ranges(args: argparse.Namespace) -> Iterator[str]:
    """Numbers out of their ranges."""
    if args.gpus is not None and args.gpus < 1:
        yield f"`--gpus` must be at least 1, but is {args.gpus}. Set such a number."
    for name in ("hours", "watts", "power_share", "kwh"):
        value = vars(args)[name]
        if value is not None and not 0 < value < math.inf:
            yield f"`--{name.replace('_', '-')}` must be above 0, but is {value:g}. Set such a number."
    if not 0 <= args.idle_share < math.inf:
        yield f"`--idle-share` must be at least 0, but is {args.idle_share:g}. BLOOM's was 0.59."
    if not 1 <= args.pue < math.inf:
        yield f"`--pue` must be at least 1, but is {args.pue:g}. LLaMA's paper assumed {PUE:g}."


def lines(args: argparse.Namespace, found: Account) -> Iterator[str]:
    """One number a line, its formula and inputs below it."""
    if found.power is not None and found.device_hours is not None:
        watts = found.power.watts * args.power_share
        yield entry("device-hours", f"{number(found.device_hours)} h", "given")
        yield formula(
            f"{args.gpus:,} {'device' if args.gpus == 1 else 'devices'} · {args.hours:,.10g} h"
        )
        yield entry(
            "power", f"{watts:,.4g} W a device", "assumed" if args.watts is None else "given"
        )
        yield formula(found.power.source)
        yield formula(f"{found.power.watts:g} W · {args.power_share:g} power share")
        yield entry("computing", f"{number(found.computing_kwh)} kWh", found.energy_is)
        yield formula(f"{number(found.device_hours)} h · {watts:,.4g} W / 1000")
    else:
        yield entry("computing", f"{number(found.computing_kwh)} kWh", found.energy_is)
    if args.idle_share:
        yield entry("idle", f"{number(found.idle_kwh)} kWh", "estimated")
        yield formula(f"{number(found.computing_kwh)} kWh · {args.idle_share:g} idle share")
    yield entry("building", f"{number(found.facility_kwh)} kWh", "estimated")
    both = number(found.computing_kwh + found.idle_kwh)
    yield formula(
        f"{both} kWh · {args.pue:g} PUE{' (LLaMA assumed it)' if args.pue == PUE else ''}"
    )
    yield entry("emitted", f"{mass(found.carbon_kg)} CO2e", "estimated")
    yield formula(f"{number(found.facility_kwh)} kWh · {found.intensity.grams:g} g/kWh")
    yield from map(formula, wrap(found.intensity.source, WIDTH - len(formula(""))))
    yield entry("left out", "making the machines; CPUs, memory, network and disks, unless")
    yield formula("the power or the PUE was chosen to hold them")


def number(value: float) -> str:
    """Whole where it is large, else to four digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def mass(kg: float) -> str:
    return f"{kg / 1000:,.4g} t" if kg >= 1000 else f"{kg:.4g} kg"


def entry(title: str, text: str, mark: str = "") -> str:
    return f"{title:{TITLE_WIDTH}} {text}{f' ({mark})' if mark else ''}"


def formula(text: str) -> str:
    return f"{'':{TITLE_WIDTH}}   {text}"


def as_json(args: argparse.Namespace, found: Account) -> dict[str, Any]:
    """The same numbers, and every input."""
    inputs = ("gpus", "hours", "gpu", "power_share", "kwh", "idle_share", "pue")
    return {
        "inputs": {
            **{name: vars(args)[name] for name in inputs},
            "watts": None if found.power is None else found.power.watts,
            "watts_source": None if found.power is None else found.power.source,
            "g_per_kwh": found.intensity.grams,
            "g_per_kwh_source": found.intensity.source,
        },
        "device_hours": found.device_hours,
        "computing_kwh": found.computing_kwh,
        "idle_kwh": found.idle_kwh,
        "facility_kwh": found.facility_kwh,
        "carbon_kg": found.carbon_kg,
        "energy_is": found.energy_is,
        "carbon_is": "estimated",
    }
