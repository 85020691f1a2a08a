"""Operations a second of each device, and what share of its peak that is.

    throughput = Throughput(1.076e12, 1.431e12, Peak(312e12, "A100 data sheet"), num_devices=992)
    throughput.rates(tokens_per_second)       # tflops, mfu, hfu

    tflops = tokens/s · model FLOPs a token / devices / 10¹²
    mfu    = tokens/s · model FLOPs a token / devices / peak
    hfu    = tokens/s · hardware FLOPs a token / devices / peak

Model FLOPs are 6N + 12·L·D·T, attention as a full square; hardware FLOPs have the layers' forward pass once more where
--checkpoint-activations computes it again (``flops.py``). Tokens are those of the loss: padding is waste, and no rate. A
device is what a rank computes on: a GPU, or the threads of a rank on CPUs.
"""

from typing import NamedTuple

from metaseq_plugin.ledger.peak import Peak


class Rates(NamedTuple):
    """Of one device: 10¹² model FLOPs a second, and the shares of its peak of both conventions."""

    tflops: float
    mfu: float
    hfu: float


class Throughput(NamedTuple):
    """What a run's tokens cost, and what its devices could do.

    Attributes:
        flops_per_token: model FLOPs.
        hardware_flops_per_token: what is computed for them.
        peak: of one device.
        num_devices: ranks of the run.
    """

    flops_per_token: float
    hardware_flops_per_token: float
    peak: Peak
    num_devices: int

    def rates(self, tokens_per_second: float) -> Rates:
        """The formulas above; ``tokens_per_second`` of all ranks together."""
        each = tokens_per_second / self.num_devices
        model, hardware = each * self.flops_per_token, each * self.hardware_flops_per_token
        return Rates(model / 1e12, model / self.peak.flops, hardware / self.peak.flops)
