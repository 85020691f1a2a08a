"""The table of devices: whole, sourced, and found by the names that people and drivers use."""

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.rates import DEVICES, device, known_device


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a100-80gb", "a100-80gb"),
        ("A100-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("AMD Instinct MI250X / MI250", "mi250"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_device_is_found(name: str, found: str) -> None:
    assert device(name).name == found


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GH200 480GB",
        "NVIDIA GB200",
        "NVIDIA H200 NVL",
        "AMD Instinct MI250X",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
    ],
)
def test_what_only_sounds_like_one_is_not_known(name: str) -> None:
    """Peaks and watts of these are others than those of the GPU whose name is in theirs."""
    assert known_device(name) is None


def test_a_typo_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"but is a100_80gb. Did you mean a100-80gb?"):
        device("a100_80gb")
    with pytest.raises(UserError, match=r"Did you mean"):
        device("")


def test_every_number_has_a_source_and_is_plausible() -> None:
    for row in DEVICES:
        assert set(row.sources) == {"tflops", "memory", "memory_rate", "link_rate", "node_rate", "host_rate", "watts"}  # fmt: skip
        assert all(row.sources.values())
        assert row.tflops["fp16"] > row.tflops["fp32"] > 0
        assert row.memory_rate > row.link_rate > row.node_rate / 8
        assert row.link_rate >= row.host_rate


def test_a_type_that_a_device_lacks() -> None:
    assert device("h200").peak("bf16") == 989e12
    with pytest.raises(UserError, match=r"`--bf16` must be a type that the v100-32gb multiplies"):
        device("v100-32gb").peak("bf16")
