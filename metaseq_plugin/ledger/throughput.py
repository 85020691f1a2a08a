"""Operations a second of each device, and what share of its peak that is.

    throughput = Throughput(model_flops(size), recomputes=True, peak=Peak(312e12, "A100 data sheet"), num_devices=992)
    throughput.rates(tokens_per_second)       # tflops, mfu, hfu

    tflops = tokens/s · model FLOPs a token / devices / 10¹²
    mfu    = tokens/s · model FLOPs a token / devices / peak
    hfu    = tokens/s · hardware FLOPs a token / devices / peak

Model FLOPs are 6N + 12·L·D·T, attention as a full square; hardware FLOPs have the layers' forward pass once more where
--checkpoint-activations computes it again (``flops.py``). Tokens are those of the loss: padding is waste, and no rate. A
device is what a rank computes on: a GPU, or the threads of a rank on CPUs.
"""

from typing import Any, Mapping, NamedTuple

from metaseq_plugin.ledger.flops import Flops, model_flops
from metaseq_plugin.ledger.peak import Peak
from metaseq_plugin.sizes import size_of


class Rates(NamedTuple):
    """Of one device: 10¹² model FLOPs a second, and the shares of its peak of both conventions."""

    tflops: float
    mfu: float
    hfu: float


class Throughput(NamedTuple):
    """What a run's tokens cost, and what its devices could do.

    Attributes:
        flops: of a token.
        recomputes: whether activations are computed twice.
        peak: of one device.
        num_devices: ranks of the run.
    """

    flops: Flops
    recomputes: bool
    peak: Peak
    num_devices: int

    def rates(self, tokens_per_second: float) -> Rates:
        """The formulas above; ``tokens_per_second`` of all ranks together."""
        each = tokens_per_second / self.num_devices
        model, hardware = each * self.flops.training, each * self.flops.hardware(self.recomputes)
        return Rates(model / 1e12, model / self.peak.flops, hardware / self.peak.flops)


def flops_of_run(
    model: Mapping[str, Any], tokens_per_sample: int, vocab_size: int, causal: bool = False
) -> Flops:
    """FLOPs of a token of a run.

    Args:
        model: ``cfg.model``, its dimensions given or those of its arch.
        tokens_per_sample: T, of a whole sample; shorter ones, as at a document's end, ask attention for less.
        vocab_size: types of the dictionary, V.
    """
    return model_flops(
        size_of(model), tokens_per_sample, vocab_size, causal, float(model["dropout"])
    )
