"""Energy and carbon: the statements that papers made, from the inputs that each used."""

from typing import NamedTuple

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.carbon import INTENSITY, emitted, intensity
from metaseq_plugin.ledger.energy import PUE, energy, joules_per_flop
from metaseq_plugin.ledger.flops import model_flops
from metaseq_plugin.sizes import SIZES

A100_WATTS = 400
OPT_HOURS = 992 * 34 * 24  # Touvron et al.'s reading of OPT's paper


class Statement(NamedTuple):
    """What was published, and the inputs: device-hours, PUE, g/kWh."""

    hours: float
    pue: float
    grams: float
    mwh: float
    tonnes: float


# LLaMA: arXiv:2302.13971, table 15. BLOOM: Luccioni et al. 2022 (arXiv:2211.02001). OPT: arXiv:2205.01068, section 6,
# which says 75 t and no inputs; 0.231 kg/kWh without PUE gives that.
STATEMENTS = {
    "LLaMA 7B": Statement(82_432, 1.1, 385, 36, 14),
    "LLaMA 13B": Statement(135_168, 1.1, 385, 59, 23),
    "LLaMA 33B": Statement(530_432, 1.1, 385, 233, 90),
    "LLaMA 65B": Statement(1_022_362, 1.1, 385, 449, 173),
    "OPT-175B by LLaMA's method": Statement(OPT_HOURS, 1.1, 385, 356, 137),
    "OPT-175B by it, at 231 g": Statement(OPT_HOURS, 1.1, 231, 356, 82),
    "OPT-175B as it says itself": Statement(OPT_HOURS, 1.0, 231, 324, 75),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_was_published(name: str) -> None:
    said = STATEMENTS[name]
    used = energy(said.hours, A100_WATTS, said.pue)
    assert used.facility_kwh / 1000 == pytest.approx(said.mwh, abs=1)  # printed in whole MWh
    assert emitted(used.facility_kwh, said.grams) / 1000 == pytest.approx(said.tonnes, abs=0.5)


def test_bloom() -> None:
    used = energy(1_082_990, A100_WATTS, pue=1.0)
    assert used.device_kwh == pytest.approx(433_196)
    assert emitted(used.device_kwh, 57) == pytest.approx(24_690, abs=5)
    # LLaMA's table has 475 MWh and 183 t for BLOOM, from 1,082,880 hours; the product is 476.5.
    by_llama = energy(1_082_880, A100_WATTS)
    assert by_llama.facility_kwh == pytest.approx(475_000, rel=0.004)
    assert emitted(by_llama.facility_kwh) == pytest.approx(183_000, rel=0.004)


def test_llamas_whole_project() -> None:
    assert emitted(2_638_000) == pytest.approx(1_015_000, rel=0.001)


def test_the_parts_of_the_formula() -> None:
    used = energy(10, watts=500, pue=1.2, share=0.5)
    assert used == (2.5, 3.0)
    assert (PUE, INTENSITY) == (1.1, 385.0)


def test_joules_of_opt_175b() -> None:
    """3.0 pJ a hardware FLOP, 4.0 pJ a model FLOP, 4.3 J a token: 356 MWh over 4.30e23 FLOPs, 300B tokens."""
    flops = model_flops(SIZES["175b"])
    each = joules_per_flop(A100_WATTS, 147e12)
    assert each == pytest.approx(3.0e-12, rel=0.01)
    assert each * flops.hardware(True) / flops.training == pytest.approx(4.0e-12, rel=0.01)
    assert each * flops.hardware(True) == pytest.approx(4.3, rel=0.01)


def test_an_intensity_is_a_number_or_a_country() -> None:
    assert intensity("231") == 231.0
    assert intensity("fra") == 56.0
    assert intensity("0") == 0.0
    for wrong in ("-1", "nan", "inf", "Mars", "", "0.385", "385000"):
        with pytest.raises(
            UserError, match=r"`--intensity` must be g/kWh, 0 or from 1 to 2,000, or one of USA"
        ):
            intensity(wrong)
