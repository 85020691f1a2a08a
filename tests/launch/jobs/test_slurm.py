"""What SLURM says of a job, in the words of a real one, and what is asked of it."""

import subprocess
from pathlib import Path

import pytest

from metaseq_plugin.launch.jobs import slurm
from metaseq_plugin.launch.jobs.slurm import JobState, exclude, has_come_back, is_ours, parse

# Of `scontrol show job -o`, shortened; the parts that differ were printed by a SLURM 22.05.
SHOWN = (
    "JobId=56122 JobName=probe.sh UserId=root(0) GroupId=root(0) JobState={state} Reason={reason} Dependency=(null) "
    "Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 PreemptTime={preempted} Partition=work ReqNodeList=(null) "
    "ExcNodeList={excluded} NodeList=n2 BatchHost=n2 NumNodes=2-2 NumCPUs=2"
)


def shown(
    state: str = "RUNNING", reason: str = "None", restarts: int = 0, preempted: str = "None", excluded: str = "(null)"
) -> str:  # fmt: skip
    return SHOWN.format(
        state=state, reason=reason, restarts=restarts, preempted=preempted, excluded=excluded
    )


def test_a_job_is_read() -> None:
    assert parse(shown()) == JobState("RUNNING", 0, "None", False, "work", 2, "")
    assert parse(shown(excluded="n[1-3]")).excluded == "n[1-3]"


def test_of_an_array_the_first_job_is_read() -> None:
    """SLURM gives one job of an array the array's number, and shows all of them when asked for it."""
    others = [shown("COMPLETED"), shown("FAILED", "NonZeroExitCode", restarts=2, excluded="n3")]
    assert parse("\n".join([shown(), *others, ""])) == parse(shown())


def test_what_shows_no_job_and_a_command_that_is_not_there_are_failures_of_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(subprocess.SubprocessError, match="no job"):
        parse("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(subprocess.SubprocessError, match="scontrol cannot be run: No such file"):
        slurm.job_state(17)


@pytest.mark.parametrize(
    ("text", "ours", "back"),
    [
        (shown(), True, False),
        (shown("COMPLETING", "TimeLimit"), True, False),  # at its time limit
        (shown("COMPLETING"), False, False),  # scancel
        (shown("COMPLETING", restarts=1), False, True),  # requeued
        (shown("RUNNING", restarts=1), False, True),  # and started elsewhere
        (shown("RUNNING", preempted="2026-11-27T18:57:18"), True, False),  # within the grace time
    ],
)
def test_whose_a_job_is(text: str, ours: bool, back: bool) -> None:
    job = parse(text)
    assert is_ours(job, 0) is ours
    assert has_come_back(job, 0) is back
    assert job.is_preempted is ("2026" in text)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for scontrol and sinfo, of a partition of 3 nodes; what was asked is in ``asked``."""
    job = shown("PENDING", restarts=1, excluded="n1")
    scontrol = f"""#!/bin/sh
echo "$@" >> {tmp_path}/asked
case "$2" in
    job) echo "{job}" ;;
    hostnames) echo n1 ;;
esac
"""
    sinfo = "#!/bin/sh\nfor node in n1 n2 n3 n4; do echo $node; done\n"
    for name, text in (("scontrol", scontrol), ("sinfo", sinfo)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_a_node_is_left_out_besides_those_that_are(commands: Path) -> None:
    assert exclude(56122, "n2") == ""
    assert "update JobId=56122 ExcNodeList=n1,n2" in (commands / "asked").read_text()


def test_no_node_is_left_out_where_too_few_would_be_left(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (commands / "sinfo").write_text("#!/bin/sh\nfor node in n1 n2 n3; do echo $node; done\n")
    assert exclude(56122, "n2") == "only 1 nodes of work would be left, and the job needs 2"
    assert "update" not in (commands / "asked").read_text()


def test_a_slurm_that_does_not_answer_is_asked_again(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_TRIES", 0.01)
    mark = commands / "failed"
    (commands / "scontrol").write_text(
        f'#!/bin/sh\n[ -e {mark} ] || {{ touch {mark}; exit 1; }}\necho "{shown()}"\n'
    )
    assert slurm.patiently(lambda: slurm.job_state(56122)).state == "RUNNING"
    mark.unlink()
    with pytest.raises(slurm.subprocess.SubprocessError):
        slurm.patiently(lambda: slurm.job_state(56122), patience=-1.0)
