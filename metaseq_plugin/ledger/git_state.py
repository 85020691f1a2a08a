"""What git says of the code that a run was launched from: commit, branch, and what is not committed.

    look(folder)        # State(root="/home/a/opt", commit="4f1c…", branch="main", is_dirty=True, …)

The difference to the commit, new files aside, is kept up to MAX_DIFF_BYTES; ``git apply`` takes it if it is whole.
New files are named, up to MAX_NAMES of them. Programs that the repository's own settings name are not run.
"""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Optional

MAX_DIFF_BYTES = 8 * 2**20
MAX_NAMES = 200
SECONDS = 60.0
TIMED_OUT = 124  # as timeout(1) ends


@dataclass(frozen=True)
class State:
    """Of one repository.

    Attributes:
        commit, branch: None where nothing is committed, or no branch is checked out.
        untracked: names of new files and folders, below root; num_untracked counts all.
        diff: against the commit, bytes as git prints them; is_cut: it was longer than MAX_DIFF_BYTES.
        problem: why git could not say more.
    """

    root: str
    commit: Optional[str] = None
    branch: Optional[str] = None
    is_dirty: bool = False
    untracked: list[str] = field(default_factory=list)
    num_untracked: int = 0
    diff: bytes = field(default=b"", repr=False)
    is_cut: bool = False
    problem: str = ""


class GitError(Exception):
    """git failed; the message is its own."""


def look(folder: Path) -> Optional[State]:
    """The state of the repository that ``folder`` lies in; None where it lies in none."""
    try:
        root = git(folder, "rev-parse", "--show-toplevel").decode("utf-8", "replace").strip()
    except GitError as error:
        is_none = "not a git repository" in str(error)
        return None if is_none else State(str(folder), problem=str(error))
    try:
        return state_of_repository(root)
    except GitError as error:
        return State(root, problem=str(error))


def state_of_repository(root: str) -> State:
    """Of the repository at ``root``.

    Raises:
        GitError: git fails.
    """
    home = Path(root)
    branch = text_or_none(home, "symbolic-ref", "--quiet", "--short", "HEAD")
    commit = text_or_none(home, "rev-parse", "--verify", "--quiet", "HEAD")
    new = git(home, "ls-files", "--others", "--exclude-standard", "--directory", "-z").split(b"\0")[
        :-1
    ]
    names = [name.decode("utf-8", "replace") for name in new]
    problem, diff = "", b""
    if commit is None:
        problem = "nothing is committed yet"
    else:
        diff = git(home, "diff", "--binary", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD",
                   most=MAX_DIFF_BYTES + 1)  # fmt: skip
    return State(
        root, commit, branch, bool(diff or names), names[:MAX_NAMES], len(names),
        diff[:MAX_DIFF_BYTES], len(diff) > MAX_DIFF_BYTES, problem,
    )  # fmt: skip


def text_or_none(folder: Path, *words: str) -> Optional[str]:
    """The one line that git prints, or None where it prints none."""
    try:
        return git(folder, *words).decode("utf-8", "replace").strip() or None
    except GitError as error:
        if str(error):
            raise
        return None


def git(folder: Path, *words: str, most: int = -1) -> bytes:
    """What ``git`` prints in ``folder``, or its first ``most`` bytes.

    Raises:
        GitError: it is not installed, fails, or takes longer than SECONDS.
    """
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *words]
    with TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                ["timeout", f"{SECONDS:g}", *command],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        except OSError as error:
            raise GitError(f"git: {error.strerror}") from error
        with process:
            assert process.stdout is not None
            printed = process.stdout.read(most)
            is_enough = len(printed) == most
            if is_enough:
                process.terminate()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip()
    if process.returncode == TIMED_OUT:
        raise GitError(f"git {words[0]} took longer than {SECONDS:g} s")
    if process.returncode and not is_enough:
        raise GitError(said.split("\n")[0])
    return printed
