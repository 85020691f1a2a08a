"""What devices can do at most: operations, bytes and watts, each with its source.

    device("a100-80gb").tflops["bf16"]      # 312.0, dense
    device("NVIDIA H100 80GB HBM3")         # the name that the driver gives (torch.cuda.get_device_name) finds it too

Rates are those of dense matrices: data sheets print twice as much, "with sparsity". Memory is in units of 10⁹ bytes,
as it is sold; drivers report some percent more or less. Links are counted in one direction, data sheets in both. Power
is the rated one (TDP, TBP): what a device may draw at most, not what it draws. Read on 2026-11-27.

The data sheets that the sources name:

    V100        NVIDIA V100 Tensor Core GPU, data sheet (January 2020)
    A100        NVIDIA A100 Tensor Core GPU, data sheet (June 2021)
    H100        NVIDIA H100 Tensor Core GPU, data sheet (2023), half of what is marked "with sparsity"
    H200        NVIDIA H200 Tensor Core GPU, data sheet (2024), the same
    B200        NVIDIA Blackwell architecture, technical brief (2024), HGX B200 at 1,000 W; memory: DGX B200 data sheet
    MI250       AMD Instinct MI250, specifications (November 2021); a die, which is what the driver counts, is half
    MI300X      AMD Instinct MI300X, data sheet (December 2023)
    DGX         user guides of DGX-1, DGX A100, DGX H100/H200, DGX B200: InfiniBand ports of a node of eight
    ROCm        rocm.docs.amd.com, MI250 microarchitecture: one Infinity Fabric link of 16 lanes
    NDv5        Azure ND MI300X v5: eight ports of 400 Gb/s
"""

from difflib import get_close_matches
from typing import Mapping, NamedTuple, Optional

from metaseq_plugin.compat.errors import UserError

GB = 1e9
GBIT = 1e9 / 8  # bytes
# In a driver's name: a part of a GPU, or its PCIe kind; both have other numbers than the GPU that is named with it.
NOT_WHOLE = {"mig", "nvl"}


class Device(NamedTuple):
    """One kind of accelerator.

    Attributes:
        name: as typed on a command line.
        driver_names: whole words of the driver's name for it, in lower case; all of one entry.
        tflops: 10¹² operations a second, dense, by precision: "fp32", "bf16", "fp16".
        memory: bytes.
        memory_rate: bytes/s.
        link_rate: bytes/s that a device can send to those of its node, in one direction.
        node_rate: bytes/s that a node of eight can send to others, in one direction.
        host_rate: bytes/s between a device and its CPU's memory, in one direction.
        watts: rated power.
        sources: of each number.
    """

    name: str
    driver_names: tuple[str, ...]
    tflops: Mapping[str, float]
    memory: float
    memory_rate: float
    link_rate: float
    node_rate: float
    host_rate: float
    watts: float
    sources: Mapping[str, str]

    def peak(self, precision: str) -> float:
        """Operations a second in ``precision``; of a 16-bit kind that a device lacks, UserError."""
        if precision not in self.tflops:
            raise UserError(
                f"`--{precision}` must be a type that the {self.name} multiplies, but it has "
                f"{', '.join(self.tflops)}. Set --{list(self.tflops)[-1]}."
            )
        return self.tflops[precision] * 1e12


def _sheet(name: str, link: str, node: str, host: str) -> Mapping[str, str]:
    numbers = ("tflops", "memory", "memory_rate", "watts")
    others = {"link_rate": link, "node_rate": node, "host_rate": host}
    return {**dict.fromkeys(numbers, f"{name} data sheet"), **others}


# fmt: off
DEVICES = tuple(
    Device(*row)
    for row in (
        ("v100-16gb", ("v100 sxm2 16gb",), {"fp32": 15.7, "fp16": 125.0},
         16 * GB, 900 * GB, 150 * GB, 4 * 100 * GBIT, 16 * GB, 300, _sheet("V100", "V100: NVLink 300 GB/s", "DGX-1: 4 × 100 Gb/s",
          "V100: PCIe 3, 32 GB/s")),
        ("v100-32gb", ("v100 sxm2 32gb",), {"fp32": 15.7, "fp16": 125.0},
         32 * GB, 900 * GB, 150 * GB, 4 * 100 * GBIT, 16 * GB, 300, _sheet("V100", "V100: NVLink 300 GB/s", "DGX-1: 4 × 100 Gb/s",
          "V100: PCIe 3, 32 GB/s")),
        ("a100-40gb", ("a100 sxm4 40gb",), {"fp32": 19.5, "fp16": 312.0, "bf16": 312.0},
         40 * GB, 1_555 * GB, 300 * GB, 8 * 200 * GBIT, 32 * GB, 400, _sheet("A100", "A100: NVLink 600 GB/s", "DGX A100: 8 × 200 Gb/s",
          "A100: PCIe 4, 64 GB/s")),
        ("a100-80gb", ("a100 sxm4 80gb", "a100 sxm 80gb"), {"fp32": 19.5, "fp16": 312.0, "bf16": 312.0},
         80 * GB, 2_039 * GB, 300 * GB, 8 * 200 * GBIT, 32 * GB, 400, _sheet("A100", "A100: NVLink 600 GB/s", "DGX A100: 8 × 200 Gb/s",
          "A100: PCIe 4, 64 GB/s")),
        ("h100-pcie", ("h100 pcie",), {"fp32": 51.0, "fp16": 756.0, "bf16": 756.0},
         80 * GB, 2_000 * GB, 64 * GB, 8 * 400 * GBIT, 64 * GB, 350, _sheet("H100", "H100: PCIe 5, 128 GB/s", "DGX H100: 8 × 400 Gb/s",
          "H100: PCIe 5, 128 GB/s")),
        ("h100-sxm", ("h100 hbm3", "h100 sxm"), {"fp32": 67.0, "fp16": 989.0, "bf16": 989.0},
         80 * GB, 3_350 * GB, 450 * GB, 8 * 400 * GBIT, 64 * GB, 700, _sheet("H100", "H100: NVLink 900 GB/s", "DGX H100: 8 × 400 Gb/s",
          "H100: PCIe 5, 128 GB/s")),
        ("h200", ("h200",), {"fp32": 67.0, "fp16": 989.0, "bf16": 989.0},
         141 * GB, 4_800 * GB, 450 * GB, 8 * 400 * GBIT, 64 * GB, 700, _sheet("H200", "H200: NVLink 900 GB/s", "DGX H200: 8 × 400 Gb/s",
          "H200: PCIe 5, 128 GB/s")),
        ("b200", ("b200",), {"fp32": 80.0, "fp16": 2_250.0, "bf16": 2_250.0},
         180 * GB, 8_000 * GB, 900 * GB, 8 * 400 * GBIT, 64 * GB, 1_000, _sheet("B200", "B200: NVLink 1,800 GB/s", "DGX B200: 8 × 400 Gb/s",
          "DGX B200: PCIe 5, 128 GB/s")),
        ("mi250", ("mi250",), {"fp32": 45.3 / 2, "fp16": 362.1 / 2, "bf16": 362.1 / 2},
         64 * GB, 1_600 * GB, 50 * GB, 8 * 200 * GBIT, 16 * GB, 280, _sheet("MI250, half", "ROCm: one link of 50 GB/s", "assumed: 8 × 200 Gb/s",
          "MI250, half: PCIe 4, 64 GB/s")),
        ("mi300x", ("mi300x",), {"fp32": 163.4, "fp16": 1_307.4, "bf16": 1_307.4},
         192 * GB, 5_300 * GB, 448 * GB, 8 * 400 * GBIT, 64 * GB, 750, _sheet("MI300X", "MI300X: 7 × 128 GB/s", "NDv5: 8 × 400 Gb/s",
          "MI300X: PCIe 5, 128 GB/s")),
    )
)
# fmt: on


def device(name: str) -> Device:
    """The device of a short name, or of the name that its driver gives.

    Raises:
        UserError: no such device; says the nearest.
    """
    found = known_device(name)
    if found is not None:
        return found
    names = [row.name for row in DEVICES]
    near = get_close_matches(name.lower().strip(), names, n=1, cutoff=0.0)
    raise UserError(
        f"`--gpu` must be one of {', '.join(names)}, but is {name}. Did you mean {near[0]}?"
    )


def known_device(name: str) -> Optional[Device]:
    """``device``, or None where the table has none of this name."""
    lowered = name.lower().strip()
    words = set(lowered.replace("-", " ").replace("/", " ").split())
    for row in DEVICES:
        if row.name == lowered:
            return row
    if words & NOT_WHOLE:
        return None
    for row in DEVICES:
        if any(words.issuperset(driver.split()) for driver in row.driver_names):
            return row
    return None
