"""The run folder explains itself: ``SAVE_DIR/launch/`` says what runs, from which code, in what surroundings.

    write_folder(launch, sbatch_script(launch))
    write_folder(launch, script, snapshot=True)        # and keeps the package's code, which the job then uses

    run.json              the launch, resolved: all options, resources and how it is kept alive
    command.sh            runs the same by hand: bash runs/a/launch/command.sh
    job.sbatch            what was submitted to SLURM
    environment.json      versions, GPUs, host and variables where it was launched
    git.json, uncommitted.diff     the commit of the plugin and of the current folder, and what was not committed
    snapshot/             the code of the plugin, if it was asked for
    earlier/1, 2, …       all these of earlier launches into the same folder

Of many runs that are launched at once, look around once: ``around = look_around()``, and hand it to each.
"""

import json
import shlex
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.spec import LAUNCH, Launch
from metaseq_plugin.ledger.git_state import State, look
from metaseq_plugin.ledger.surroundings import surroundings
from metaseq_plugin.storage import atomic

VERSION = 1  # of run.json
RUN_FILE, COMMAND_FILE, SCRIPT_FILE = "run.json", "command.sh", "job.sbatch"
ENVIRONMENT_FILE, GIT_FILE, DIFF_FILE = "environment.json", "git.json", "uncommitted.diff"
SNAPSHOT, EARLIER = "snapshot", "earlier"
EXPLAINING = (RUN_FILE, COMMAND_FILE, SCRIPT_FILE, ENVIRONMENT_FILE, GIT_FILE)
RESTARTS = "SLURM_RESTART_COUNT"  # above 0: a run goes on from its own newest checkpoint
PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Around:
    """What is the same for all runs that are launched together: surroundings, and the repositories' states."""

    surroundings: Mapping[str, Any]
    repositories: tuple[State, ...]


def look_around() -> Around:
    """The surroundings of this process; the repositories of the plugin and of the current folder."""
    places = (look(PACKAGE), look(Path.cwd()))
    by_root = {state.root: state for state in places if state is not None}
    return Around(surroundings(), tuple(by_root.values()))


def write_folder(
    launch: Launch, script: str = "", snapshot: bool = False, around: Optional[Around] = None
) -> None:
    """Write all that explains a launch; what an earlier launch wrote is kept in ``earlier/``.

    Args:
        script: of sbatch; nothing where SLURM does not run it.
        snapshot: copy the package's code, too (``snapshot_of`` finds it).

    Raises:
        UserError: the folder cannot be written.
    """
    around = around or look_around()
    folder = launch.spec.save_dir / LAUNCH
    texts = {
        COMMAND_FILE: command_script(launch, snapshot),
        ENVIRONMENT_FILE: as_text(around.surroundings),
        **repository_files(around.repositories),
    }
    files = {
        name: text if isinstance(text, bytes) else text.encode() for name, text in texts.items()
    }
    if script:
        files[SCRIPT_FILE] = script.encode()
    files[RUN_FILE] = as_text({"version": VERSION, **launch.as_json()}).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        keep_earlier(folder)
        if snapshot:
            copy_code(folder / SNAPSHOT)
        for name, content in files.items():  # run.json last: it says that all is there
            with atomic.replacing(folder / name) as unfinished:
                unfinished.write_bytes(content)
        atomic.flush(folder)
    except OSError as error:
        raise UserError(
            f"`--save-dir` must be a folder that can be written, but {error.filename or folder} cannot "
            f"({error.strerror}). Set another, or make room."
        ) from error


def as_text(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"


def command_script(launch: Launch, snapshot: bool = False) -> str:
    """A script that runs the launch without a cluster, on one machine or by hand on each node."""
    resources = launch.resources
    words = launch.spec.command()
    if launch.survival.restore_file is not None:
        words += f" --restore-file {shlex.quote(launch.survival.restore_file)}"
    if resources.num_ranks > 1:
        program, _, rest = words.partition(" ")
        nodes = "" if resources.nodes == 1 else (
            f" --nnodes {resources.nodes} --node_rank ${{NODE_RANK:?0 to {resources.nodes - 1}}}"
            " --master_addr ${MASTER_ADDR:?the first node} --master_port ${MASTER_PORT:?free on the first node}"
        )  # fmt: skip
        words = f'torchrun --nproc_per_node {resources.ranks_per_node}{nodes} "$(which {program})" {rest}'
    lines = ["#!/usr/bin/env bash", f"cd {shlex.quote(str(Path.cwd()))} || exit", f"exec {words}"]
    # As for the ranks of a job: where the run has saved, that goes before --restore-file.
    lines.insert(2, f"export {RESTARTS}=1")
    if snapshot:
        code = shlex.quote(str((launch.spec.save_dir / LAUNCH / SNAPSHOT).absolute()))
        lines.insert(2, f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}")
    return "\n".join([*lines, ""])


def repository_files(repositories: tuple[State, ...]) -> dict[str, "str | bytes"]:
    """git.json, and the difference of each repository that has one, by name."""
    rows, diffs = [], {}
    for number, state in enumerate(repositories, 1):
        row = asdict(state)
        del row["diff"]
        if state.diff:
            name = DIFF_FILE if number == 1 else f"uncommitted-{number}.diff"
            row.update(diff=name, diff_bytes=len(state.diff))
            diffs[name] = state.diff
        rows.append(row)
    return {**diffs, GIT_FILE: as_text({"repositories": rows})}


def keep_earlier(folder: Path) -> None:
    """Move what explains an earlier launch into the next free number of ``earlier/``."""
    names = [*EXPLAINING, SNAPSHOT, *(path.name for path in folder.glob("uncommitted*.diff"))]
    found = [name for name in names if (folder / name).exists()]
    if RUN_FILE not in found:  # of a launch that did not come to its end
        return
    place = next_number(folder / EARLIER)
    place.mkdir(parents=True)
    found.remove(RUN_FILE)
    for name in found:
        atomic.rename(folder / name, place / name)
    atomic.rename(folder / RUN_FILE, place / RUN_FILE)


def next_number(folder: Path) -> Path:
    """``folder/N`` with the first N that follows all that are there."""
    numbers = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return folder / str(max(numbers, default=0) + 1)


def copy_code(target: Path) -> None:
    """A copy of the package below ``target``, as PYTHONPATH wants it."""
    shutil.rmtree(target, ignore_errors=True)  # of a launch that did not come to its end
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", f"*{atomic.TEMPORARY_SUFFIX}")
    shutil.copytree(PACKAGE, target / PACKAGE.name, ignore=ignored)


def snapshot_of(save_dir: Path) -> Optional[Path]:
    """The code that the run's ranks are to use, for the front of PYTHONPATH; None: what is installed."""
    folder = (save_dir / LAUNCH / SNAPSHOT).absolute()
    return folder if folder.is_dir() else None
