"""Ledgers for the tests of the page: runs in which everything happened that the page has a place for."""

import math
import random
from pathlib import Path
from typing import Any, Dict

from metaseq_plugin.ledger.account import Account
from metaseq_plugin.ledger.read_account import read_account
from metaseq_plugin.report.page.file import write_page
from tests.ledger.written import WrittenRun

LATER = 2_000_000_000.0  # long after any of the runs: none is running
HOSTILE = '</script><script>document.title="taken"</script><img src=x onerror=alert(1)> & \u2028 ‮'
LAYERS = 12


class Curves:
    """Numbers as a run has them: a loss that falls with noise, and 1 spike."""

    def __init__(self, seed: int, spike_at: int = 0) -> None:
        self.random, self.spike_at = random.Random(seed), spike_at

    def at(self, update: int) -> Dict[str, Any]:
        is_spike = self.spike_at <= update < self.spike_at + 10 and self.spike_at > 0
        loss = 3.4 + 12 * math.exp(-update / 60) + self.random.gauss(0, 0.05) + 4 * is_spike
        gnorm = 0.4 + 20 * math.exp(-update / 25) + abs(self.random.gauss(0, 0.05)) + 30 * is_spike
        return {
            "loss": loss,
            "gnorm": gnorm,
            "loss_scale": 2.0 ** (7 - (update >= 120) - (update >= 200)),
            "lr": 6e-4 * min(1, update / 60) * (1 - update / 2000),
            "watts": 310 + self.random.gauss(0, 8),
            "mfu": 0.35 + self.random.gauss(0, 0.005),
            "hfu": 0.47 + self.random.gauss(0, 0.005),
            "norms": {
                kind: [scale * (1 + layer / 4) for layer in range(LAYERS + more)]
                for kind, scale, more in (("activations", 9.0, 0), ("gradients", 0.02, 1))
            },
        }


def go(run: WrittenRun, curves: Curves, to: int) -> None:
    while run.update < to:
        run.updates(10, **curves.at(run.update + 10))


def eventful_run(folder: Path, seed: int = 1) -> Path:
    """400 updates in 3 starts: a spike at 150, killed at 237 after a save at 200, a rewind, a hostile note."""
    run, curves = WrittenRun(folder), Curves(seed, spike_at=150)
    run.start(first=0)
    go(run, curves, 120)
    run.event("loss_scale", before=128.0, now=64.0)
    go(run, curves, 160)
    run.event("spike", of="loss", value=8.6, z=31.0, policy="log", action="logged")
    run.event("note", author="ada", text=f"The loss jumped. {HOSTILE}\nWe wait.")
    go(run, curves, 200)
    run.spend(6.0, "saving")
    run.event("save", path="checkpoint_1_200.pt", seconds=6.0, stall=1.5, bytes=4_000_000)
    run.updates(37)
    run.kill()
    run.start(first=200)
    curves.spike_at = 0
    go(run, curves, 300)
    run.spend(4.0, "validating")
    run.event("valid", subset="valid", loss=3.9, ppl=14.9, seconds=4.0)
    run.event("signal", name="SIGTERM")
    run.end("stopped by SIGTERM")
    run.start(first=300)
    go(run, curves, 330)
    run.rewind(310)
    go(run, curves, 400)
    run.spend(4.0, "validating")
    run.event("valid", subset="valid", loss=3.6, ppl=12.1, seconds=4.0)
    run.end()
    for start in (row for row in run.rows if row["kind"] == "start"):
        start["command"] = f"fairseq-train data --arch opt_125m --wandb-project '{HOSTILE}'"
    return run.write()


def plain_run(folder: Path, seed: int = 2, updates: int = 300) -> Path:
    """One start, nothing happened."""
    run = WrittenRun(folder)
    run.start(first=0)
    go(run, Curves(seed), updates)
    run.end()
    return run.write()


def account(folder: Path) -> Account:
    return read_account(folder, now=LATER)


def page_of(*folders: Path) -> Path:
    """The page of runs, beside the first."""
    path = folders[0].parent / "report.html"
    write_page([account(folder) for folder in folders], path)
    return path
