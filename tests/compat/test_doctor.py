"""``metaseq doctor``: a healthy environment, and what it says about each kind of broken one."""

import re
import subprocess
from pathlib import Path
from typing import Callable

import pytest

from metaseq_plugin.compat import commands as command
from metaseq_plugin.compat.commands import doctor

RunPython = Callable[..., subprocess.CompletedProcess[str]]
DOCTOR = "import sys; from metaseq_plugin.compat.commands import main; sys.exit(main(['doctor']))"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_healthy_environment(run_python: RunPython) -> None:
    done = run_python(DOCTOR)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Everything that training needs works.\n")
    assert done.stderr == ""
    for section in ("Versions", "Start-up hook", "Devices", "Disk", "Seams"):
        assert re.search(f"^{section}$", done.stdout, re.MULTILINE)
    assert re.search(r"^  fairseq +0\.12\.2 +ok$", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_torch_that_cannot_be_imported(run_python: RunPython, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text(
        "raise ImportError('libc10.so: cannot open shared object file')\n"
    )
    done = run_python(
        f"import sys; sys.path.insert(0, {str(broken)!r}); {DOCTOR}", PYTHONPATH=str(broken)
    )
    if "No module named 'metaseq_plugin'" in done.stderr:
        pytest.skip("the package is on PYTHONPATH here, not installed")
    assert done.returncode == 1
    assert "torch must be importable, but fails with: ImportError: libc10.so" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_hook_switched_off(run_python: RunPython) -> None:
    done = run_python(DOCTOR, METASEQ_PLUGIN_COMPAT="0")
    assert done.returncode == 1
    assert "METASEQ_PLUGIN_COMPAT must not be 0 for training, but is. Unset it." in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("library", "state", "problem"),
    [
        (
            doctor.Library("no-such-thing", "x"),
            "MISSING",
            "no-such-thing must be installed, but is not.",
        ),
        (doctor.Library("no-such-thing", "x", needed=False), "optional, not installed", ""),
        (
            doctor.Library("torch", "torch", measured="0.1"),
            "unknown version, not 0.1",
            "torch must be version 0.1",
        ),
        (
            doctor.Library("torch", "torch", minimum=(99,)),
            "TOO OLD, below 99",
            "torch must be at least 99",
        ),
        (doctor.Library("torch", "torch", minimum=(2, 8)), "ok", ""),
    ],
)
def test_versions(library: doctor.Library, state: str, problem: str) -> None:
    row = doctor.version_row(library)
    assert row.state == state
    assert row.problem.startswith(problem)
    assert bool(row.problem) == bool(problem)


def test_the_remedy_for_a_missing_fairseq_is_a_command() -> None:
    fairseq = next(library for library in doctor.LIBRARIES if library.distribution == "fairseq")
    row = doctor.version_row(fairseq._replace(distribution="no-such-fairseq"))
    assert "pip install --no-deps antlr4-python3-runtime==4.8 fairseq==0.12.2" in row.problem


def test_an_unknown_host_version_is_said_beside_the_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: "9.9")
    rows = doctor.seam_rows(
        {"fairseq.checkpoint_utils": {"safe_checkpoints.allow_plain_data": "applied"}}
    )
    row = next(row for row in rows if row.value == "fairseq.checkpoint_utils")
    assert row.state == "unknown version (fairseq 9.9, measured with 0.12.2); applied"


def test_little_disk_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ENOUGH_DISK_BYTES", 1 << 60)
    assert doctor.disk_row().problem.startswith("The free disk space must be at least 2 GiB")


def test_the_remedys_pins_are_the_scripts_pins() -> None:
    lines = (ROOT / "requirements/fairseq.txt").read_text().splitlines()
    assert tuple(line for line in lines if not line.startswith("#")) == doctor.FAIRSEQ_PINS


def test_other_subcommands_refuse_without_fairseq(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "fairseq" else object())
    assert command.main(["convert"]) == 1
    message = (
        "metaseq: error: fairseq must be installed, but cannot be found. Run `metaseq doctor`.\n"
    )
    assert capsys.readouterr().err == message
