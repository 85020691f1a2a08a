"""What a launch knows of one run: what it trains, what it asks of the cluster, how it is kept alive.

    spec = RunSpec("data", Path("runs/a"), {"arch": "opt_125m", "lr": 6e-4, "bf16": True})
    spec.words()        # ["data", "--user-dir", "metaseq_plugin", "--arch", "opt_125m", "--lr", "0.0006", "--bf16", …]

``baselines`` and ``sweep`` make specs, ``jobs`` runs them, ``folders`` looks after their folders. Nothing here imports
torch or fairseq: to launch two hundred runs takes a second.
"""

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Union

PROGRAM = "fairseq-train"
USER_DIR = "metaseq_plugin"
LAUNCH = "launch"  # the folder of a run that is ours

Value = Union[str, int, float, bool, None]  # True: a flag; False, None: not given


@dataclass(frozen=True)
class RunSpec:
    """What one run trains.

    Attributes:
        data: the data folder.
        save_dir: the run folder: checkpoints, and ``launch/`` with all that explains the run.
        options: of fairseq-train without dashes in front ("lr", "update-freq") -> value, in the order of the command.
        name: short, for the job's name and tables.
    """

    data: str
    save_dir: Path
    options: Mapping[str, Value]
    name: str = ""

    def words(self) -> list[str]:
        """The command line behind ``fairseq-train``."""
        words = [self.data, "--user-dir", USER_DIR]
        for option, value in {**self.options, "save-dir": str(self.save_dir)}.items():
            if value is None or value is False:
                continue
            words.append(f"--{option}")
            if value is not True:
                words.append(str(value))
        return words

    def command(self) -> str:
        """The whole command as a shell reads it."""
        return shlex.join([PROGRAM, *self.words()])


@dataclass(frozen=True)
class Resources:
    """What a run asks of a machine or cluster.

    Attributes:
        executor: "slurm", "local", "debug" (submitit's), or "auto": slurm where there is one.
        nodes, ranks_per_node: a rank for every GPU; on a CPU, so many processes.
        minutes: the time limit of one job; a run that needs longer is requeued.
        slurm: further options of sbatch, by their long names: partition, account, constraint, exclude, mem, …
    """

    executor: str = "auto"
    nodes: int = 1
    ranks_per_node: int = 1
    uses_gpus: bool = True
    cpus_per_rank: Optional[int] = None
    minutes: int = 4320
    launcher: str = "ranks"  # "torchrun": one torchrun a node, instead of our own ranks
    slurm: Mapping[str, Union[str, int, bool]] = field(default_factory=dict)

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Survival:
    """How a run is kept alive.

    Attributes:
        max_restarts: in a row from the same save, after crashes and hangs; being preempted or out of time is no crash.
        backoff: seconds before the first restart; doubled by each further one that made no update, up to 10 minutes.
        hang_factor: no update for so many times the median update is a hang; 0: never is.
        hang_seconds: and at least so many seconds.
        signal_seconds: before the time limit, to save and requeue.
        restore_file: what a run starts from before its first save.
    """

    max_restarts: int = 10
    backoff: float = 10.0
    hang_factor: float = 20.0
    hang_seconds: float = 600.0
    signal_seconds: int = 180
    restore_file: Optional[str] = None


@dataclass(frozen=True)
class Launch:
    """All of it: what is written to ``SAVE_DIR/launch/run.json``."""

    spec: RunSpec
    resources: Resources
    survival: Survival

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives the launch back."""
        plain: dict[str, Any] = asdict(self)
        plain["spec"]["save_dir"] = str(self.spec.save_dir)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Launch":
        spec = {**plain["spec"], "save_dir": Path(plain["spec"]["save_dir"])}
        return cls(RunSpec(**spec), Resources(**plain["resources"]), Survival(**plain["survival"]))
