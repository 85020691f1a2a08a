"""The script for a GPU runs from end to end on tiny models; its arithmetic of kernels and of memory."""

import argparse
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.kernels import Span, busy_time, kind_of, shares_of
from benchmarks.turns import Peak


@pytest.mark.slow
def test_the_whole_script_runs_and_writes_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "results.md"
    words = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--profile", "--updates", "1"]  # fmt: skip
    subprocess.run([*words, "--warm-up", "1", "--results", str(file)], check=True)
    text = file.read_text()
    assert "| opt_8m | 1 x 32 | ours | " in text
    assert "| opt_8m | 1 x 32 | hugging face | " in text
    assert "Error" not in text
    assert "chunked_cross_entropy" in text
    assert "tok/s" in text


def test_what_fails_is_told_and_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(device="cpu", dtype="float32")
    assert "ended with 1: " in gpu.run_command(["nothing"], 60, options)[-1]
    worker = gpu.Worker(options)
    monkeypatch.setattr(gpu, "work", lambda pipe, options: None)  # a child that ends at once
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    for _ in range(2):
        assert "the process ended" in worker.ask(gpu.TINY[0], 60)[0]
        assert worker.process is None


def test_kernels_that_overlap_count_once() -> None:
    spans = [
        Span("ampere_bf16_gemm", 0, 40),
        Span("flash_fwd_kernel", 30, 60),
        Span("multi_tensor_apply_adam", 80, 100),
    ]
    assert busy_time(spans) == 80
    shares = shares_of(spans)
    assert shares == pytest.approx(
        {"matrix products": 0.4, "attention": 0.3, "optimizer": 0.2, "idle": 0.2}
    )
    assert next(iter(shares)) == "matrix products"
    assert shares_of([]) == {}
    assert kind_of("something else") == "other"


def test_the_peak_outlives_whoever_resets_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    account = [10]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: account[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: account.__setitem__(0, 1))
    reset = torch.cuda.reset_peak_memory_stats
    peak = Peak()
    account[0] = 70
    torch.cuda.reset_peak_memory_stats()
    account[0] = 5
    assert peak.bytes == 70
    peak.close()
    assert torch.cuda.reset_peak_memory_stats is reset
