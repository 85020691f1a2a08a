"""Launch a tiny training on the cluster, disturb it, and say what became of it.

trial = Trial.begin(cluster, data, tmp_path / "run", 40, act="kill", at=7, times=1)
trial.wait_for_update(12); trial.slurm("scontrol", "requeue", trial.job)
trial.wait(); trial.assert_finished(undisturbed(40))
"""

import json
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import torch
from torch import Tensor

from metaseq_plugin.launch.folders.events import read_events
from metaseq_plugin.launch.folders.explain import write_folder
from metaseq_plugin.launch.folders.status import state_of
from metaseq_plugin.launch.jobs import sbatch_script, submit
from metaseq_plugin.launch.spec import Launch, Resources, RunSpec, Survival, Value
from scripts.slurm_cluster import Cluster

FAULTY = Path(__file__).parent / "faulty"
SURVIVAL = Survival(backoff=0.5, signal_seconds=30)
PATIENCE = 240.0  # seconds, for a busy machine


def tiny_options(updates: int) -> Dict[str, Value]:
    """Options of a training of 2 layers that takes milliseconds an update."""
    return {
        "user-dir": str(FAULTY), "task": "opt_language_modeling", "cpu": True, "arch": "opt", "decoder-layers": 2,
        "decoder-embed-dim": 16, "decoder-attention-heads": 2, "tokens-per-sample": 32, "batch-size": 4,
        "criterion": "chunked_cross_entropy", "optimizer": "adamw", "lr": 0.01, "clip-norm": 1.0,
        "distributed-backend": "gloo", "num-workers": 0, "max-update": updates, "disable-validation": True,
        "save-interval-updates": 10, "keep-interval-updates": 1, "no-epoch-checkpoints": True,
        "log-format": "json", "log-interval": 1,
    }  # fmt: skip


def tiny_launch(
    data: Path,
    save_dir: Path,
    updates: int,
    nodes: int = 1,
    options: Optional[Dict[str, Value]] = None,
    survival: Survival = SURVIVAL,
    minutes: int = 20,
    **slurm: Any,
) -> Launch:
    """A launch of one rank a node."""
    spec = RunSpec(str(data), save_dir, {**tiny_options(updates), **(options or {})}, save_dir.name)
    resources = Resources("slurm", nodes, 1, uses_gpus=False, cpus_per_rank=1, minutes=minutes, slurm=slurm)  # fmt: skip
    return Launch(spec, resources, survival)


def prepare(save_dir: Path, **trial: Any) -> None:
    """Say how updates are to go: see ``faulty``."""
    save_dir.mkdir(parents=True, exist_ok=True)
    (save_dir / "trial.json").write_text(json.dumps(trial))


def weights_of(save_dir: Path) -> Dict[str, Tensor]:
    """The model that the last checkpoint holds."""
    model: Dict[str, Tensor] = torch.load(save_dir / "checkpoint_last.pt", weights_only=True)[
        "model"
    ]
    return model


class Trial(NamedTuple):
    """One launched run.

    Attributes:
        job: its id as squeue shows it: "7", or "7_1" of an array.
    """

    launch: Launch
    job: str
    cluster: Cluster

    @classmethod
    def begin(
        cls, cluster: Cluster, data: Path, save_dir: Path, updates: int, *, launch: Optional[Dict[str, Any]] = None,
        **trial: Any,
    ) -> "Trial":  # fmt: skip
        """Submit it; ``launch``: for ``tiny_launch``; the rest says how updates are to go."""
        prepare(save_dir, **trial)
        wanted = tiny_launch(data, save_dir, updates, **(launch or {}))
        write_folder(wanted, sbatch_script(wanted))
        (job,) = submit([wanted])
        return cls(wanted, job, cluster)

    @property
    def save_dir(self) -> Path:
        return self.launch.spec.save_dir

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def rows(self, rank: int = 0) -> List[Dict[str, Any]]:
        path = self.save_dir / f"rows-{rank}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def updates(self, rank: int = 0) -> List[int]:
        return [row["update"] for row in self.rows(rank)]

    def events(self, kind: str = "") -> List[Dict[str, Any]]:
        return [event for event in read_events(self.save_dir).events if kind in ("", event["kind"])]

    def kinds(self) -> List[str]:
        return [event["kind"] for event in self.events()]

    def attempts(self) -> List[str]:
        """How each start of the job ended, as SLURM's books have it."""
        text = self.slurm("sacct", "-D", "-X", "-n", "-P", "-j", self.job, "--format=State")
        return [line.split()[0] for line in text.splitlines()]

    def told(self) -> str:
        """All that one wants to read of a trial that went wrong."""
        folder = self.save_dir / "launch"
        files = [
            *folder.glob("events.jsonl"),
            *folder.glob("logs/*"),
            *folder.rglob("submitit/*.*"),
        ]
        texts = [f"== {path}\n{path.read_text(errors='replace')[-3000:]}" for path in files if path.suffix != ".pkl"]  # fmt: skip
        return "\n".join([*texts, str(self.attempts()), self.slurm("squeue")])

    def wait_until(self, holds: Any, what: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{self.told()}"
            time.sleep(0.05)

    def wait_for_update(self, update: int, behind: int = 0) -> None:
        """Until the run, in rows behind the first ``behind``, has made ``update``."""
        self.wait_until(lambda: any(n >= update for n in self.updates()[behind:]), f"update {update}")  # fmt: skip

    def wait_for_start_behind(self, process: int) -> None:
        """Until another process than ``process`` makes updates."""

        def has_started() -> bool:
            self.hurry()
            return bool(self.rows()[-1]["process"] != process)

        self.wait_until(has_started, "the next start")

    def is_queued(self) -> bool:
        return self.job in self.slurm("squeue", "-h", "-r", "-o", "%i").split()

    def hurry(self) -> None:
        """A requeued job need not wait its seconds."""
        state = self.slurm("squeue", "-h", "-r", "-j", self.job, "-o", "%T %r").split()
        if state == ["PENDING", "BeginTime"]:
            self.slurm("scontrol", "update", f"JobId={self.job}", "StartTime=now")

    def wait(self) -> None:
        """Until SLURM has the job no more, and its books say so too."""

        def is_over() -> bool:
            if self.is_queued():
                self.hurry()
                return False
            return not {"RUNNING", "PENDING", "REQUEUED"} & set(self.attempts()[-1:])

        self.wait_until(is_over, "the end of the job")

    def assert_finished(self, undisturbed: Path) -> None:
        """It ended well, once, with the weights of the run that nobody disturbed, and was never twice at once."""
        attempts = self.attempts()
        assert attempts[-1] == "COMPLETED", self.told()
        assert attempts.count("COMPLETED") == 1, self.told()
        assert self.kinds().count("finished") == 1, self.told()
        assert state_of(self.save_dir) == "finished"
        starts = [event["start"] for event in self.events("started")]
        assert len(set(starts)) == len(starts) <= len(attempts), self.told()
        self.assert_alone()
        found, weights = weights_of(self.save_dir), weights_of(undisturbed)
        assert found.keys() == weights.keys()
        for name, tensor in weights.items():
            assert torch.equal(found[name], tensor), f"{name} differs\n{self.told()}"

    def assert_alone(self) -> None:
        """No two processes of rank 0 made updates at the same time."""
        processes = [row["process"] for row in sorted(self.rows(), key=lambda row: row["time"])]
        changes = sum(a != b for a, b in pairwise(processes))
        assert changes + 1 == len(set(processes)), self.told()

    def assert_no_update_twice(self) -> None:
        """Each stop saved behind its update: none was lost or made again."""
        last = self.launch.spec.options["max-update"]
        assert isinstance(last, int)
        for rank in range(self.launch.resources.num_ranks):
            assert self.updates(rank) == list(range(1, last + 1)), self.told()
