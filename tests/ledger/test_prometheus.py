"""--metrics-file: read back by Prometheus's own parser."""

import math
from pathlib import Path

import pytest
import torch

from metaseq_plugin.ledger.prometheus import metrics_text, write_metrics

NUMBERS = {
    "num_updates": 70, "tokens": 4480, "loss": torch.tensor(5.25), "wps": 1800.5, "mfu": 0.354,
    "kwh_estimated": 12.5, "gnorm": math.nan, "ppl": 38.0,
}  # fmt: skip
RUN = 'runs/"a\\b"\n'


def test_it_is_what_prometheus_reads() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(metrics_text(RUN, NUMBERS, 1795800000.5)))
    samples = {sample.name: sample for family in families for sample in family.samples}
    assert {name: sample.value for name, sample in samples.items()} == {
        "metaseq_train_updates_total": 70.0,
        "metaseq_train_tokens_total": 4480.0,
        "metaseq_train_loss_bits": 5.25,
        "metaseq_train_tokens_per_second": 1800.5,
        "metaseq_train_mfu_ratio": 0.354,
        "metaseq_train_energy_estimated_kwh_total": 12.5,
        "metaseq_train_last_line_timestamp_seconds": 1795800000.5,
    }  # not gnorm, which is NaN
    assert all(sample.labels == {"run": RUN} for sample in samples.values())
    kinds = {family.name: family.type for family in families}
    assert kinds["metaseq_train_tokens"] == "counter"
    assert kinds["metaseq_train_mfu_ratio"] == "gauge"
    assert all(family.documentation for family in families)


def test_the_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "opt.prom"
    write_metrics(path, "a", {"num_updates": 1})
    first = path.open()
    write_metrics(path, "a", {"num_updates": 2})
    assert "updates_total" in first.read()  # who reads has the old one, whole
    assert 'metaseq_train_updates_total{run="a"} 2.0\n' in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="No such file"):
        write_metrics(tmp_path / "none" / "opt.prom", "a", {})
