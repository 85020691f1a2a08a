"""Rates of a run, checked on OPT-175B's own statement."""

import pytest

from metaseq_plugin.ledger.flops import model_flops
from metaseq_plugin.ledger.peak import Peak
from metaseq_plugin.ledger.rates import device
from metaseq_plugin.ledger.throughput import Throughput
from metaseq_plugin.sizes import SIZES


def test_opt_175bs_rates_from_its_tokens_a_second() -> None:
    """147 TFLOP/s a GPU on 992 of them (arXiv:2205.01068, section 2.4) are hardware FLOPs: 47.1 %; MFU is 35.4 %."""
    flops = model_flops(SIZES["175b"])
    peak = Peak(device("a100-80gb").peak("fp16"), "A100 data sheet")
    throughput = Throughput(flops.training, flops.hardware(True), peak, num_devices=992)
    rates = throughput.rates(992 * 147e12 / flops.hardware(True))
    assert rates.hfu == pytest.approx(0.471, abs=0.0005)
    assert rates.mfu == pytest.approx(0.354, abs=0.0005)
    assert rates.tflops == pytest.approx(0.354 * 312, abs=0.2)


def test_the_formulas() -> None:
    throughput = Throughput(600.0, 800.0, Peak(1e12, "given"), num_devices=4)
    assert throughput.rates(4e9) == (0.6, 0.6, 0.8)
