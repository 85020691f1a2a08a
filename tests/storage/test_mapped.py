"""Pages of mapped files are given back, and nothing else is."""

from pathlib import Path

import pytest
import torch

from metaseq_plugin.storage.mapped import MAPS, release


def resident_file_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc/self/maps")
def test_mapped_pages_are_given_back_and_read_again(tmp_path: Path) -> None:
    values = torch.arange(8 * 2**20, dtype=torch.float32)  # 32 MiB
    torch.save({"a": values, "b": values + 1}, tmp_path / "file.pt")
    held = torch.load(tmp_path / "file.pt", mmap=True)
    assert held["b"].sum() > held["a"].sum()
    before = resident_file_kb()
    release(held["a"])
    assert before - resident_file_kb() > 24 * 1024
    assert torch.equal(held["a"], values)
    assert torch.equal(held["b"], values + 1)


def test_memory_of_its_own_keeps_its_values() -> None:
    large, small = torch.ones(4 * 2**20), torch.ones(3)
    for tensor in (large, large[5:], large.view(2, -1).t(), small, torch.ones(0)):
        release(tensor)
        assert bool((tensor == 1).all())
