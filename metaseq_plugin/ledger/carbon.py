"""Greenhouse gases of electricity: kilograms of CO2 equivalents.

    kg = kWh · g/kWh / 1000

g/kWh is the intensity of the grid that the building draws from: what the country's power stations emit on
average, not what a contract promises. Making the machines (embodied emissions) and their idle time are not in
it: for BLOOM they came to 11.2 and 14.6 t beside 24.7 t (Luccioni et al. 2022, arXiv:2211.02001).
"""

from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Mapping, NamedTuple, Tuple

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage import json_file

CODECARBONS_TABLE = "data/private_infra/global_energy_mix.json"  # in its package

INTENSITY = 385.0
US_AVERAGE = "the average of the United States: LLaMA, arXiv:2302.13971, section 6 (February 2023)"

HIGHEST = 2_000.0  # twice what codecarbon 3.3.2 has for coal, 995; a fraction of 1 is meant in kg

AVERAGES = "average of 2023, codecarbon 3.3.2 (read 2026-11-27)"
INTENSITIES: Mapping[str, float] = MappingProxyType(
    {"USA": 369.5, "FRA": 56.0, "DEU": 381.0, "SWE": 40.7}
)


class Intensity(NamedTuple):
    """g/kWh, and where the number is from."""

    grams: float
    source: str


def intensity(text: str) -> float:
    """``intensity_of(text).grams``."""
    return intensity_of(text).grams


def intensity_of(text: str, option: str = "--intensity") -> Intensity:
    """g/kWh from a number, or from the ISO code of a country: of ``INTENSITIES``, or of codecarbon if installed.

    Raises:
        UserError: neither.
    """
    code = text.upper()
    if code in INTENSITIES:
        return Intensity(INTENSITIES[code], f"{code}, {AVERAGES}")
    countries = codecarbons_countries() if code.isalpha() else {}
    if code in countries:
        grams, year = countries[code]
        return Intensity(grams, f"{code}, average of {year}, the codecarbon that is installed")
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not (number == 0 or 1 <= number <= HIGHEST):
        raise UserError(
            f"`{option}` must be g/kWh, 0 or from 1 to {HIGHEST:,.0f}, or one of {', '.join(INTENSITIES)} (with "
            f"codecarbon installed, of any country), but is {text}. LLaMA's paper assumed {INTENSITY:g}."
        )
    return Intensity(number, US_AVERAGE if number == INTENSITY else "given")


def codecarbons_countries() -> Mapping[str, Tuple[float, int]]:
    """ISO code -> (g/kWh, year) of codecarbon's table; empty where it is not installed.

    The file is read without importing codecarbon, which takes seconds.
    """
    spec = find_spec("codecarbon")
    if spec is None or spec.origin is None:
        return {}
    path = Path(spec.origin).parent / CODECARBONS_TABLE
    rows = json_file.read(path)
    return {
        code: (float(row["carbon_intensity"]), int(row["year"]))
        for code, row in rows.items()
        if isinstance(row, dict) and {"carbon_intensity", "year"} <= row.keys()
    }


def emitted(kwh: float, grams_per_kwh: float = INTENSITY) -> float:
    """Kilograms of CO2 equivalents of ``kwh``."""
    return kwh * grams_per_kwh / 1000
