"""The peak of a device: the table's where it is known, else that of products, measured once."""

from pathlib import Path

import pytest
import torch

from metaseq_plugin.ledger import peak
from metaseq_plugin.ledger.peak import MEASURED, peak_of, product_rate

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_a_known_gpu_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peak, "device_name", lambda _: "NVIDIA H200")
    assert peak_of(GPU, "bf16", tmp_path / "peaks.json") == (989e12, "H200 data sheet")
    assert not (tmp_path / "peaks.json").exists()


@pytest.mark.parametrize(
    ("name", "precision"), [("GeForce 9000", "bf16"), ("Tesla V100-SXM2-32GB", "bf16")]
)
def test_what_the_table_lacks_is_measured_once(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = iter([3e12])
    monkeypatch.setattr(peak, "device_name", lambda _: name)
    monkeypatch.setattr(peak, "product_rate", lambda device, dtype: next(rates))
    for _ in range(2):
        assert peak_of(GPU, precision, tmp_path / "cache" / "peaks.json") == (3e12, MEASURED)


def test_a_user_without_a_home_measures_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    rates = iter([1e9, 2e9])
    monkeypatch.setattr(peak, "product_rate", lambda device, dtype: next(rates))
    assert [peak_of(CPU, "fp32").flops for _ in range(2)] == [1e9, 2e9]


def test_a_cpu_is_measured_for_each_type_and_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = iter([1e9, 2e9, 3e9])
    monkeypatch.setattr(peak, "product_rate", lambda device, dtype: next(rates))
    cache = tmp_path / "peaks.json"
    assert peak_of(CPU, "fp32", cache).flops == 1e9
    assert peak_of(CPU, "bf16", cache).flops == 2e9
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert peak_of(CPU, "fp32", cache).flops == 3e9
    monkeypatch.undo()
    assert peak_of(CPU, "fp32", cache) == (1e9, MEASURED)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": null}', '{"x": Infinity}'])
def test_a_damaged_cache_is_no_cache(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peak, "product_rate", lambda device, dtype: 5e9)
    cache = tmp_path / "peaks.json"
    cache.write_text(content)
    assert peak_of(CPU, "fp32", cache).flops == 5e9
    assert peak.read(cache).keys() == {
        key for key in peak.read(cache) if torch.__version__ in key
    }  # "x" is gone


def test_a_cache_that_cannot_be_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peak, "product_rate", lambda device, dtype: 5e9)
    (tmp_path / "file").touch()
    assert peak_of(CPU, "fp32", tmp_path / "file" / "peaks.json").flops == 5e9


def test_the_rate_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first product finds its kernel and does not count; of the others one takes half a second."""
    looks = iter([0.0, 0.1, 2.0, 3.0, 4.0, 4.0, 4.1, 4.6, 4.7, 4.7, 5.7, 6.0])
    monkeypatch.setattr(peak, "SECONDS", 3.0)
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(looks))
    assert product_rate(CPU, torch.float32) == pytest.approx(2 * 512**3 / 0.5)
