"""What a launch writes about itself: complete, resolved, without secrets, and never over what was there."""

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.checkpoint.choose import REQUEUES
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.explain import (
    EARLIER,
    VERSION,
    Around,
    command_script,
    look_around,
    snapshot_of,
    write_folder,
)
from metaseq_plugin.launch.folders.reading import read_launch
from metaseq_plugin.launch.jobs.ranks import own_code
from metaseq_plugin.launch.spec import LAUNCH, Launch, Survival
from metaseq_plugin.ledger import git_state
from metaseq_plugin.ledger.surroundings import LEFT_OUT, surroundings
from tests.launch.folders.run_folders import NOWHERE, WITHOUT_PACKAGE, fake, launch_of


def content(save_dir: Path, name: str) -> Any:
    return json.loads((save_dir / LAUNCH / name).read_text())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_launch_comes_back_as_it_was_written(tmp_path: Path) -> None:
    launch = launch_of(tmp_path / "run", nodes=2, slurm={"partition": "p", "exclusive": True})
    write_folder(launch, "#!/bin/bash\n#SBATCH --nodes=2\n", around=NOWHERE)
    assert read_launch(tmp_path / "run") == launch
    assert content(tmp_path / "run", "run.json")["version"] == VERSION
    assert (tmp_path / "run/launch/job.sbatch").read_text() == "#!/bin/bash\n#SBATCH --nodes=2\n"
    assert names(tmp_path / "run/launch") == [
        "command.sh", "environment.json", "git.json", "job.sbatch", "run.json",
    ]  # fmt: skip


def test_no_sbatch_script_where_slurm_does_not_run_it(tmp_path: Path) -> None:
    write_folder(launch_of(tmp_path), around=NOWHERE)
    assert not (tmp_path / "launch/job.sbatch").exists()


def run_script(text: str, folder: Path, program: str, **variables: str) -> list[str]:
    """The arguments that the script gives to ``program``."""
    fake(folder, program, "true")
    script = folder / "command.sh"
    script.write_text(text)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    subprocess.run(["bash", script], env=environment, check=True)
    return (folder / f"{program}.calls").read_text().split()


def test_the_command_runs_by_hand(tmp_path: Path) -> None:
    launch = launch_of(tmp_path / "a run")
    given = run_script(command_script(launch), tmp_path / "bin", "fairseq-train")
    assert " ".join(given) == " ".join(launch.spec.words())


def test_the_command_starts_from_the_restore_file(tmp_path: Path) -> None:
    launch = replace(launch_of(tmp_path / "run"), survival=Survival(restore_file="a b.pt"))
    assert command_script(launch).endswith(f"{launch.spec.command()} --restore-file 'a b.pt'\n")


def test_the_command_goes_on_from_the_runs_own_checkpoint(tmp_path: Path) -> None:
    """Also with a restore file, which would begin anew each time."""
    launch = replace(launch_of(tmp_path / "run"), survival=Survival(restore_file="a.pt"))
    fake(tmp_path / "bin", "fairseq-train", "true")
    program = tmp_path / "bin/fairseq-train"
    program.write_text(program.read_text().replace("true", f"env > {tmp_path}/variables"))
    run_as_is = tmp_path / "command.sh"
    run_as_is.write_text(command_script(launch))
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    subprocess.run(["bash", run_as_is], env={**os.environ, "PATH": path}, check=True)
    assert REQUEUES + "=1" in (tmp_path / "variables").read_text().split()


def test_of_several_ranks_it_is_torchrun_that_runs_it(tmp_path: Path) -> None:
    fake(tmp_path / "bin", "fairseq-train", "true")
    text = command_script(launch_of(tmp_path / "run", nodes=2, ranks_per_node=4))
    given = run_script(text, tmp_path / "bin", "torchrun", NODE_RANK="1", MASTER_ADDR="n1", MASTER_PORT="29500")  # fmt: skip
    assert given[:10] == [
        "--nproc_per_node", "4", "--nnodes", "2", "--node_rank", "1", "--master_addr", "n1",
        "--master_port", "29500",
    ]  # fmt: skip
    assert given[10] == str(tmp_path / "bin/fairseq-train")
    assert given[11:] == launch_of(tmp_path / "run").spec.words()


def test_a_second_launch_keeps_the_first_one(tmp_path: Path) -> None:
    for lr in (1, 2, 3):
        write_folder(launch_of(tmp_path, max_update=lr), f"script {lr}", around=NOWHERE)
        (tmp_path / "launch/events.jsonl").touch()
    assert content(tmp_path, "run.json")["spec"]["options"]["max-update"] == 3
    for number in (1, 2):
        earlier = tmp_path / LAUNCH / EARLIER / str(number)
        assert (
            json.loads((earlier / "run.json").read_text())["spec"]["options"]["max-update"]
            == number
        )
        assert (earlier / "job.sbatch").read_text() == f"script {number}"
    assert names(tmp_path / LAUNCH / EARLIER) == ["1", "2"]
    assert (tmp_path / "launch/events.jsonl").exists()


def test_a_launch_without_a_script_leaves_no_script_of_the_last_one(tmp_path: Path) -> None:
    write_folder(launch_of(tmp_path), "script", around=NOWHERE)
    write_folder(launch_of(tmp_path), around=NOWHERE)
    assert not (tmp_path / "launch/job.sbatch").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"`--save-dir` must be a folder that can be written, but .*file"
    ):
        write_folder(launch_of(tmp_path / "file/run"), around=NOWHERE)


def test_a_snapshot_is_the_code_that_the_ranks_import(tmp_path: Path, monkeypatch: Any) -> None:
    write_folder(launch_of(tmp_path), snapshot=True, around=NOWHERE)
    folder = snapshot_of(tmp_path)
    assert folder == tmp_path / "launch/snapshot"
    assert not list(folder.rglob("__pycache__"))
    assert list(folder.rglob("*.html"))  # what is not code comes along
    program = (
        "import importlib; print(importlib.import_module('metaseq_plugin.compat.errors').__file__)"
    )
    monkeypatch.setenv("PYTHONPATH", "/before")
    variables = own_code(tmp_path)
    assert variables == {"PYTHONPATH": f"{folder}:/before"}
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd="/", capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == str(folder / "metaseq_plugin/compat/errors.py")
    assert f"export PYTHONPATH={folder}" in (tmp_path / "launch/command.sh").read_text()
    write_folder(launch_of(tmp_path), around=NOWHERE)
    assert snapshot_of(tmp_path) is None
    assert own_code(tmp_path) == {}
    assert (tmp_path / "launch/earlier/1/snapshot/metaseq_plugin/sizes.py").is_file()


def test_looking_around_is_done_once_for_many_runs(tmp_path: Path, monkeypatch: Any) -> None:
    around = look_around()
    monkeypatch.setenv("PATH", "")  # nothing can be asked any more
    for number in range(3):
        write_folder(launch_of(tmp_path / str(number)), around=around)
    assert content(tmp_path / "2", "environment.json")["versions"]["torch"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    home = tmp_path / "repository"
    home.mkdir()
    git(home, "init", "-q", "-b", "trunk")
    (home / "a.txt").write_text("one\n")
    (home / ".gitignore").write_text("ignored\n")
    git(home, "add", ".")
    git(home, "commit", "-qm", "first")
    return home


def git(home: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
    return subprocess.run(
        command, cwd=home, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_clean_repository_is_its_commit(repository: Path) -> None:
    (repository / "ignored").touch()
    state = git_state.look(repository)
    assert state == git_state.State(
        str(repository), git(repository, "rev-parse", "HEAD"), "trunk", is_dirty=False
    )


def test_what_is_not_committed_can_be_applied_to_the_commit(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "a.txt").write_text("two\n")
    (repository / "b.bin").write_bytes(bytes(range(256)))
    git(repository, "add", "b.bin")
    (repository / "new folder").mkdir()
    (repository / "new folder/x").touch()
    (repository / "neu\u00e9.txt").touch()
    state = git_state.look(repository)
    assert state is not None
    assert state.is_dirty
    assert state.untracked == ["neu\u00e9.txt", "new folder/"]
    write_folder(launch_of(tmp_path / "run"), around=Around({}, (state,)))
    (row,) = content(tmp_path / "run", "git.json")["repositories"]
    assert row["diff"] == "uncommitted.diff"
    assert row["diff_bytes"] == (tmp_path / "run/launch/uncommitted.diff").stat().st_size
    assert not row["is_cut"]
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository), str(clone))
    git(clone, "apply", str(tmp_path / "run/launch/uncommitted.diff"))
    assert (clone / "a.txt").read_text() == "two\n"
    assert (clone / "b.bin").read_bytes() == bytes(range(256))


def test_a_long_difference_is_cut_and_said_to_be(repository: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(git_state, "MAX_DIFF_BYTES", 10_000)
    (repository / "a.txt").write_text("x\n" * 1_000_000)
    state = git_state.look(repository)
    assert state is not None
    assert state.is_cut
    assert len(state.diff) == 10_000


def test_a_repository_without_a_commit_says_so(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "x").touch()
    state = git_state.look(tmp_path)
    assert state is not None
    assert (state.commit, state.branch, state.untracked) == (None, "trunk", ["x"])
    assert state.problem == "nothing is committed yet"


def test_a_detached_head_has_no_branch(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    state = git_state.look(repository)
    assert state is not None
    assert state.branch is None
    assert state.commit


def test_no_repository_is_none(tmp_path: Path) -> None:
    assert git_state.look(tmp_path) is None


def test_git_that_is_missing_is_said(repository: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    state = git_state.look(repository)
    assert state is not None
    assert "git" in state.problem
    os.symlink(shutil.which("timeout", path="/usr/bin:/bin") or "", tmp_path / "bin/timeout")
    state = git_state.look(repository)
    assert state is not None
    assert "git" in state.problem


def test_a_repository_of_somebody_else_is_said_not_trusted(
    repository: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    state = git_state.look(repository)
    assert state is not None
    assert "dubious ownership" in state.problem
    assert state.commit is None


def test_programs_that_a_repository_names_are_not_run(repository: Path, tmp_path: Path) -> None:
    program = fake(tmp_path / "bin", "evil", "true")
    for key in ("diff.external", "core.fsmonitor"):
        git(repository, "config", key, str(program))
    (repository / "a.txt").write_text("two\n")
    state = git_state.look(repository)
    assert state is not None
    assert b"+two" in state.diff
    assert not (tmp_path / "bin/evil.calls").exists()


def test_versions_and_cuda_are_found_without_importing_torch() -> None:
    program = (
        f"{WITHOUT_PACKAGE} import json;"
        "from metaseq_plugin.launch.folders import status, stop, logs;"
        "from metaseq_plugin.ledger.surroundings import surroundings;"
        "found = surroundings(); print(json.dumps([found, [m for m in ('torch', 'fairseq', 'numpy') if m in sys.modules]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    found, imported = json.loads(done.stdout)
    import torch

    assert imported == []
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["fairseq"] == "0.12.2"
    assert found["cuda"] == torch.version.cuda
    assert found["cpu"]["cores"] == os.cpu_count()
    assert found["memory_bytes"] > 2**20


def test_secrets_are_left_out(monkeypatch: Any) -> None:
    secret = "hunter2"
    for name in (
        "WANDB_API_KEY",
        "METASEQ_TOKEN",
        "SLURM_JWT",
        "CUDA_PASSWORD",
        "METASEQ_AUTH",
        "WANDB_KEYS",
    ):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("MY_OWN", secret)
    monkeypatch.setenv("WANDB_BASE_URL", f"https://me:{secret}@host/x")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    found = surroundings()
    assert secret not in json.dumps(found)
    variables = found["variables"]
    assert variables["WANDB_API_KEY"] == LEFT_OUT
    assert variables["SLURM_JWT"] == LEFT_OUT
    assert "MY_OWN" not in variables
    assert variables["WANDB_BASE_URL"] == f"https://{LEFT_OUT}@host/x"
    assert variables["TOKENIZERS_PARALLELISM"] == "false"
    assert variables["NCCL_SOCKET_IFNAME"] == "eth0"
    assert variables["SLURM_JOB_ID"] == "17"


def test_gpus_are_what_nvidia_smi_says(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake(tmp_path, "nvidia-smi", 'echo "0, NVIDIA A100-SXM4-80GB, 81920 MiB, 535.1"')
    assert surroundings()["gpus"] == [
        {"index": "0", "name": "NVIDIA A100-SXM4-80GB", "memory_total": "81920 MiB", "driver_version": "535.1"}
    ]  # fmt: skip
    fake(tmp_path, "nvidia-smi", 'echo "Driver/library version mismatch"; exit 18')
    found = surroundings()
    assert found["gpus"] == []
    assert found["gpus_problem"] == "nvidia-smi: Driver/library version mismatch"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"must not be empty"),
        ('{"version": 1, "spec"', r"must be a complete, readable .json file"),
        ("[1]", r"must hold a JSON object"),
        ('{"version": 1}', r"must be a complete, readable .json file"),
        ('{"version": 1, "spec": 3, "resources": {}, "survival": {}}', r"must be a complete, readable"),
        ('{"version": 1, "spec": {"data": "d", "save_dir": "s", "options": [1]}, "resources": {}, "survival": {}}', r"must be a complete, readable"),
        ('{"version": 1, "spec": {"data": "d", "save_dir": "s", "options": {}, "more": 1}, "resources": {}, "survival": {}}', r"must be a complete, readable"),
        ('{"version": 2}', r"must be of version 1 or earlier, but is of 2\. "),
    ],
)  # fmt: skip
def test_a_run_json_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    write_folder(launch_of(tmp_path), around=NOWHERE)
    (tmp_path / "launch/run.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_launch(tmp_path)


def test_json_of_today_can_be_read_by_the_interface_itself(tmp_path: Path) -> None:
    write_folder(launch_of(tmp_path), around=NOWHERE)
    assert Launch.from_json(content(tmp_path, "run.json")) == launch_of(tmp_path)
    assert stat.S_ISREG((tmp_path / "launch/run.json").stat().st_mode)
