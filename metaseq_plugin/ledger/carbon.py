"""Greenhouse gases of electricity: kilograms of CO2 equivalents.

    kg = kWh · g/kWh / 1000

g/kWh is the intensity of the grid that the building draws from: what the country's power stations emit on
average, not what a contract promises. Making the machines (embodied emissions) and their idle time are not in
it: for BLOOM they came to 11.2 and 14.6 t beside 24.7 t (Luccioni et al. 2022, arXiv:2211.02001).
"""

from types import MappingProxyType
from typing import Mapping

from metaseq_plugin.compat.errors import UserError

# The national average of the United States, 0.385 kg/kWh: Touvron et al. 2023 (LLaMA, arXiv:2302.13971,
# 27 February 2023), section 6.
INTENSITY = 385.0

# Average g/kWh of 2023, as codecarbon 3.3.2 lists them (read 2026-11-27).
INTENSITIES: Mapping[str, float] = MappingProxyType(
    {"USA": 369.5, "FRA": 56.0, "DEU": 381.0, "SWE": 40.7}
)


def intensity(text: str) -> float:
    """g/kWh from a number, or from a country of ``INTENSITIES``.

    Raises:
        UserError: neither.
    """
    if text.upper() in INTENSITIES:
        return INTENSITIES[text.upper()]
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e5:
        raise UserError(
            f"`--intensity` must be g/kWh, at least 0, or one of {', '.join(INTENSITIES)}, but is "
            f"{text}. OPT's neighbours assumed {INTENSITY:g}."
        )
    return number


def emitted(kwh: float, grams_per_kwh: float = INTENSITY) -> float:
    """Kilograms of CO2 equivalents of ``kwh``."""
    return kwh * grams_per_kwh / 1000
