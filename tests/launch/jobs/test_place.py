"""Where ranks meet: hosts and ports."""

from pathlib import Path

import pytest

from metaseq_plugin.launch.jobs.place import Place, address_of


def place(number: int) -> Place:
    return Place("slurm", str(number), number, 0, ("n1", "n2"), 0)


def test_ports_lie_in_the_stated_range_and_differ_from_start_to_start() -> None:
    for number in (0, 1, 4999, 5000, 123_456_789):
        pairs = [place(number).ports(start) for start in range(50)]
        assert len(set(pairs)) == 50
        assert all(20_000 <= first < second < 30_000 for first, second in pairs)


def test_neighbouring_jobs_share_no_port() -> None:
    ports = [port for number in range(5000) for port in place(number).ports(0)]
    assert len(set(ports)) == 10_000


def test_a_host_that_only_slurm_knows_is_met_at_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho NodeName=$4 NodeAddr=127.0.0.9 NodeHostName=x\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert address_of("node-of-slurm.invalid") == "127.0.0.9"
    assert address_of("localhost") == "localhost"
