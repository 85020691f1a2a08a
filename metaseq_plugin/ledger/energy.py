"""Energy of a computation, from how long how many devices ran: estimated, where no meter was read.

    kWh = devices · hours · W · share / 1000          at the devices
        · PUE                                          at the building's meter

W is the device's rated power (``rates.py``). ``share`` is the mean power as a share of that: 1, the rated power all
the time, where nothing was measured. PUE (power usage effectiveness) is the building's energy over that of its
machines. CPUs, memory, network and storage beside the devices are left out unless PUE was chosen to hold them.

Wh = GPU-h · W · PUE: Touvron et al. 2023 (LLaMA, arXiv:2302.13971, 27 February 2023), section 6.
"""

from typing import NamedTuple

# "we set PUE at 1.1": Touvron et al. 2023 (arXiv:2302.13971), section 6.
PUE = 1.1
JOULES_OF_KWH = 3.6e6


class Energy(NamedTuple):
    """Kilowatt-hours of the devices alone, and with the building around them."""

    device_kwh: float
    facility_kwh: float


def energy(device_hours: float, watts: float, pue: float = PUE, share: float = 1.0) -> Energy:
    """The formula above.

    Args:
        device_hours: devices times hours.
        watts: rated power of one device.
        pue: 1 or more.
        share: mean power as a share of ``watts``.
    """
    at_devices = device_hours * watts * share / 1000
    return Energy(at_devices, at_devices * pue)


def joules_per_flop(watts: float, flops_per_second: float, pue: float = PUE) -> float:
    """Energy of one operation at a rate that is kept, the building's share included."""
    return watts * pue / flops_per_second
