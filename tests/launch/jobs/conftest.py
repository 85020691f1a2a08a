"""What tests of jobs share."""

import socket

import pytest

from metaseq_plugin.launch.jobs.place import Place


@pytest.fixture
def free_number() -> int:
    """Of a job whose ports are free on this machine."""
    for number in range(4000, 5000):
        ports = Place("local", "7", number, 0, ("127.0.0.1",), 0).ports(0)
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return number
    raise AssertionError("no port is free")
