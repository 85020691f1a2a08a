"""Kill a rank, or all ranks of a run, at a chosen step of a save, and tell which step it was.

A step is one call that changes the disk (write, flush, link, rename, delete) or asks the other ranks.
Every rank appends the steps of its saves to ``steps-⟨rank⟩``, so that the last line is the one that was
hit. The kill comes from a child of the killer, a moment after the step began: SIGKILL, for one or all.
"""

import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

from metaseq_plugin import host
from metaseq_plugin.layout.peers import GroupRanks
from metaseq_plugin.storage import atomic, torch_file

# What to count, by the object that it is looked up on.
STEPS: tuple[tuple[Any, str], ...] = (
    (torch_file, "write"),
    (atomic, "flush"),
    (atomic, "link"),
    (atomic, "rename"),
    (atomic, "remove"),
    (GroupRanks, "all_gather"),
)


class Kill(NamedTuple):
    """SIGKILL for ``victims``, ``delay`` seconds after step ``step`` of ``killer`` began.

    Steps are counted from the beginning of save number ``save`` of this start, the first being 1.
    """

    save: int
    step: int
    killer: int
    victims: tuple[int, ...]
    delay: float

    def prepare(self, folder: Path) -> Callable[[int], None]:
        """For ``train_ranks``; the ranks leave their process ids and steps in ``folder``."""

        def prepare(rank: int) -> None:
            (folder / f"pid-{rank}").write_text(str(os.getpid()))
            trace = os.open(folder / f"steps-{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            self._count_steps(rank, trace, folder)

        return prepare

    def _strike(self, folder: Path) -> None:
        victims = [int((folder / f"pid-{rank}").read_text()) for rank in self.victims]
        if self.delay and os.fork() != 0:
            return  # a child strikes while the save goes on
        time.sleep(self.delay)
        victims.sort(key=os.getpid().__eq__)  # itself last
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def _count_steps(self, rank: int, trace: int, folder: Path) -> None:
        saves = steps = place = 0

        def step_of(original: Callable[..., Any], name: str) -> Callable[..., Any]:
            def step(*args: Any, **kwargs: Any) -> Any:
                nonlocal steps, place
                if saves:
                    place += 1
                    os.write(trace, f"{place}:{name}\n".encode())
                    steps += saves >= self.save
                    if rank == self.killer and steps == self.step:
                        self._strike(folder)
                return original(*args, **kwargs)

            return step

        save = host.save_checkpoint

        def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
            nonlocal saves, place
            saves, place = saves + 1, 0
            return save(*args, **kwargs)

        host.save_checkpoint = save_checkpoint
        for owner, name in STEPS:
            setattr(owner, name, step_of(vars(owner)[name], name))


def step_hit(folder: Path, rank: int) -> str:
    """The step that ``rank`` had begun when it ended: its place in the save, and what it does."""
    return ((folder / f"steps-{rank}").read_text().split() or ["none"])[-1]


def remember_settings(folder: Path) -> Callable[[int], None]:
    """For ``train_ranks``: make fairseq's settings once for all starts of the same command line.

    Hydra takes longer for them than such a start takes for everything else.
    """

    def prepare(rank: int) -> None:
        import fairseq_cli.train as command

        make, kept = command.convert_namespace_to_omegaconf, folder / f"settings-{rank}"

        def settings(arguments: Any) -> Any:
            if not kept.exists():
                kept.write_bytes(pickle.dumps(make(arguments)))
            return pickle.loads(kept.read_bytes())

        command.convert_namespace_to_omegaconf = settings

    return prepare
