"""Ledgers as a run writes them, written without one: each update takes a second, by a clock of their own.

    run = WrittenRun(tmp_path)
    run.start(first=0)
    run.updates(25)                       # lines every 10 updates, as --ledger-interval says
    run.event("save", path="…", seconds=2.0)
    run.end("stopped by SIGTERM")         # or .kill(), which leaves it to the tally
    run.start(first=20)                   # idle for 60 s before it
    run.write()

``kept`` is what the run as it now is was made by, kept up as a list: for each update the start that made it.
"""

import json
from pathlib import Path
from typing import Any, Dict, List

from metaseq_plugin.ledger.files import EVENTS, FORMAT, TALLY, UPDATES, ledger_folder
from metaseq_plugin.ledger.tally import ACCOUNTS, Tally, TallyFile

BEGIN = 1_795_804_400.0
OPTIONS = {
    "optimization.max_update": 100,
    "optimization.lr": [6e-4],
    "task.pue": 1.1,
    "task.carbon_intensity": "385",
}
HARDWARE = {"device": "NVIDIA A100-SXM4-80GB", "devices": 8, "nodes": 1, "host": "node1"}
GIT = {"commit": "0123456789abcdef", "branch": "main", "is_dirty": False}
STARTING, IDLE = 12.0, 60.0  # seconds of each start, and between two
TOKENS = 512  # of an update


class WrittenRun:
    """Rows in memory, and the truth beside them."""

    def __init__(self, folder: Path, interval: int = 10) -> None:
        self.folder, self.interval = folder, interval
        self.rows: List[Dict[str, Any]] = []
        self.lines: List[Dict[str, Any]] = []
        self.now = BEGIN
        self.number = -1
        self.kept: List[int] = []  # of each update of the run, who made it
        self.done: List[int] = []  # updates of each start
        self.wall: List[float] = []  # seconds of each start
        self.before: Dict[str, Any] = {}
        self.tally = Tally(0)

    def start(self, first: int, **fields: Any) -> None:
        """A start that goes on from update ``first``."""
        self.number += 1
        self.now += IDLE if self.number else 0.0
        self.began, self.first, self.update = self.now, first, first
        self.accounts = dict.fromkeys(ACCOUNTS, 0.0)
        self.done.append(0)
        told: Dict[str, Any] = {
            "began": self.began, "format": FORMAT, "command": "fairseq-train data --arch opt_125m",
            "options": OPTIONS, "layout": {"ranks": 8}, "versions": {"torch": "2.13.0"}, "git": GIT,
            "hardware": HARDWARE, "data": {"path": "data", "files": 4, "hash": "f00d" * 16},
        }  # fmt: skip
        before = {"before": self.before} if self.before else {}
        self.update = 0
        self.event("start", **{**told, **before, **fields})
        self.spend(STARTING, "starting")
        self.update = first
        self.event(
            "ready",
            seconds=STARTING,
            first_update=first,
            num_parameters=1000,
            flops_per_token=6e3,
            hardware_flops_per_token=8e3,
        )
        if self.number:
            self.event("resume", **{"from": "checkpoint_last.pt", "changed": {}})
        self.begin_line()

    def spend(self, seconds: float, account: str) -> None:
        self.now += seconds
        self.accounts[account] += seconds

    def begin_line(self) -> None:
        self.at_line = (self.update, dict(self.accounts), self.now)

    def updates(self, number: int, **fields: Any) -> None:
        """Make updates of a second: 0.9 s of computing, 0.1 s of waiting for data."""
        del self.kept[self.update :]  # not before: a start that makes nothing changes nothing
        self.kept += [-1] * (self.update - len(self.kept))  # of another run
        for _ in range(number):
            self.spend(0.9, "computing")
            self.spend(0.1, "waiting")
            self.update += 1
            self.done[-1] += 1
            self.kept.append(self.number)
            if self.update - self.at_line[0] >= self.interval:
                self.line(**fields)

    def line(self, **fields: Any) -> None:
        update, accounts, since = self.at_line
        made = self.update - update
        spent = {name: self.accounts[name] - accounts[name] for name in ACCOUNTS[1:]}
        self.lines.append(
            {
                "time": self.now, "update": self.update, "start": self.number, "updates": made,
                "ntokens": made * TOKENS, "loss": 2 + 8 / (1 + self.update / 20), "gnorm": 1.5, "clip": 10.0,
                "lr": 6e-4 * (1 - self.update / 1000), "seconds": self.now - since, **spent,
                "tflops": 110.0, "mfu": 0.35, "hfu": 0.47, **fields,
            }
        )  # fmt: skip
        self.begin_line()

    def event(self, kind: str, **fields: Any) -> None:
        place = {"time": self.now, "kind": kind, "update": self.update, "start": self.number}
        self.rows.append({**place, **fields})

    def rewind(self, to: int) -> None:
        """Go back within the start, after the line that ends here."""
        if self.update > self.at_line[0]:
            self.line()
        here = self.update
        self.spend(3.0, "rewinding")
        self.update = to
        self.event("rewind", **{"from": here}, to=to, skipped_updates=1, lr_factor=1.0)
        self.begin_line()

    def end(self, reason: str = "finished") -> None:
        if self.update > self.at_line[0]:
            self.line()
        seconds = self.now - self.began
        self.event(
            "end", reason=reason, done=self.done[-1], seconds=seconds, accounts=self.accounts
        )
        self.before = {}
        self._over(has_ended=1)

    def kill(self) -> None:
        """kill -9: nothing is written any more."""
        self.before = {
            "start": self.number, "update": self.update, "done": self.done[-1], "seen": self.now,
            "accounts": dict(self.accounts),
        }  # fmt: skip
        self._over(has_ended=0)

    def _over(self, has_ended: int) -> None:
        self.wall.append(self.now - self.began)
        self.tally = Tally(
            self.number, self.first, self.update, self.done[-1], 0, has_ended, self.began, self.now,
            tuple(self.accounts[name] for name in ACCOUNTS),
        )  # fmt: skip

    def write(self) -> Path:
        """The files; the folder of the run."""
        folder = ledger_folder(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in ((EVENTS, self.rows), (UPDATES, self.lines)):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        tally = TallyFile(folder / TALLY)
        tally.write(self.tally)
        tally.close()
        return self.folder

    @property
    def between(self) -> float:
        """Seconds between the starts."""
        return IDLE * self.number


def usual_run(folder: Path) -> WrittenRun:
    """Three starts: killed at 37 after a save at 30, stopped at 55, finished at 100."""
    run = WrittenRun(folder)
    run.start(first=0)
    run.updates(30)
    run.spend(2.0, "saving")
    run.event("save", path="runs/a/checkpoint_1_30.pt", seconds=2.0, stall=2.0, bytes=4_000_000)
    run.updates(7)
    run.kill()
    run.start(first=30)
    run.updates(20)
    run.spend(4.0, "validating")
    run.event("valid", subset="valid", loss=4.5, ppl=22.6, seconds=4.0)
    run.updates(5)
    run.event("signal", name="SIGTERM")
    run.end("stopped by SIGTERM")
    run.start(first=55)
    run.updates(45)
    run.end()
    return run
