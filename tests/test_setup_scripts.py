"""scripts/setup.sh refuses what cannot work in one sentence, and its requirement files agree.

No test here installs anything or takes network: each run is stopped by what it tests.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
TOOLS = [
    "bash",
    "cat",
    "cksum",
    "tr",
    "df",
    "awk",
    "dirname",
    "mktemp",
    "rm",
    "mkdir",
    "tail",
    "printf",
]

OLD_PYTHON = """#!/bin/sh
case "$2" in *sys.exit*) exit 1;; esac
echo 3.13.0
"""


def set_up(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "scripts/setup.sh")],
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "METASEQ_VENV": str(tmp_path / "env"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What a refused run said: exactly one line on stderr, and exit status 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("setup: error: ")
    assert lines[0].endswith((".", ")."))
    return lines[0].removeprefix("setup: error: ")


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_python_that_does_not_start(tmp_path: Path) -> None:
    said = sentence(set_up(tmp_path, PYTHON="/no/such/python"))
    assert said.startswith(
        "PYTHON must be a Python interpreter that starts, but is /no/such/python."
    )


def test_a_python_that_is_too_new(tmp_path: Path) -> None:
    python = executable(tmp_path / "python3.13", OLD_PYTHON)
    said = sentence(set_up(tmp_path, PYTHON=str(python)))
    assert said.startswith("PYTHON must be Python 3.10, 3.11 or 3.12, but is Python 3.13.0")


def test_only_a_wrong_python_on_path(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    executable(folder / "python3", OLD_PYTHON)
    said = sentence(set_up(tmp_path, PYTHON="", PATH=str(folder)))
    assert said.startswith("Python must be 3.10, 3.11 or 3.12, but python3 is 3.13.0. Install one")


def test_no_disk_space(tmp_path: Path) -> None:
    said = sentence(set_up(tmp_path, METASEQ_MIN_FREE_MB="999999999"))
    assert re.match(
        r"The free disk space at .* must be at least 999999999 MiB, but is \d+ MiB\. Free some",
        said,
    )


def test_no_compiler(tmp_path: Path) -> None:
    said = sentence(set_up(tmp_path, CXX="/no/such/c++", METASEQ_MIN_FREE_MB="1"))
    assert "but cc and /no/such/c++ do not both start. Install them" in said.replace(
        os.environ.get("CC", "cc"), "cc"
    )


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = sentence(set_up(tmp_path, METASEQ_VENV=str(tmp_path / "file/env")))
    assert said.startswith("METASEQ_VENV must be a folder that can be written, but is ")


@pytest.mark.slow
def test_a_failing_index(tmp_path: Path) -> None:
    index = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    pip = {
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
    }
    said = sentence(set_up(tmp_path, METASEQ_MIN_FREE_MB="1", **index, **pip))
    assert said.startswith("pip and build tools could not be fetched by pip. Check the network")
    log = re.search(r"full log: (.*)\)", said)
    assert log is not None
    assert "127.0.0.1" in Path(log.group(1)).read_text()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("OSError: [Errno 28] No space left on device", "because the disk is full"),
        ("ERROR: No matching distribution found for torch==2.13.0", "could not be fetched by pip"),
        ("ERROR: Failed building wheel for fairseq", "could not be installed; the last lines"),
    ],
)
def test_a_failed_step_is_explained_from_its_log(log: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    definitions = (ROOT / "scripts/setup.sh").read_text().removesuffix("\nmetaseq_setup\n")
    script = tmp_path / "scripts/try.sh"
    script.parent.mkdir()
    script.write_text(f"{definitions}\nmetaseq_step torch sh -c 'echo \"$0\"; exit 1' '{log}'\n")
    done = subprocess.run(
        ["bash", str(script)],
        env={**os.environ, "METASEQ_VENV": str(tmp_path / "env")},
        capture_output=True,
        text=True,
    )
    assert said in sentence(done)


def test_a_current_environment_is_left_alone(tmp_path: Path) -> None:
    """The stamp alone decides: nothing is installed, whatever the index is."""
    environment = tmp_path / "env"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(sys.executable)
    definitions = (ROOT / "scripts/setup.sh").read_text().removesuffix("\nmetaseq_setup\n")
    names = definitions.replace("${BASH_SOURCE[0]}", str(ROOT / "scripts/setup.sh"))
    settings = {**os.environ, "METASEQ_VENV": str(environment)}
    settings.pop("PYTHON", None)
    stamp = subprocess.run(
        ["bash", "-c", f"{names}\nmetaseq_wanted_stamp"],
        env=settings,
        capture_output=True,
        text=True,
    ).stdout
    assert stamp.startswith("Python 3.")
    (environment / "setup.stamp").write_text(stamp)
    started = time.time()
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/setup.sh")], env=settings, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not [path for path in environment.rglob("*") if path.stat().st_mtime > started]


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("python_version", ["3.10", "3.11", "3.12"])
def test_every_requirement_has_one_pin(python_version: str) -> None:
    def holds(marker: "Marker | None") -> bool:
        return marker is None or marker.evaluate({"python_version": python_version})

    pins = [pin for pin in requirements("constraints.txt") if holds(pin.marker)]
    names = [pin.name.lower() for pin in pins]
    assert sorted(set(names)) == sorted(names)
    assert all(len(pin.specifier) == 1 and "==" in str(pin.specifier) for pin in pins)
    for file in ("build.txt", "runtime.txt", "dev.txt"):
        for requirement in requirements(file):
            assert requirement.name.lower() in names


def test_the_scripts_install_what_the_package_asks_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    declared = [Requirement(found) for found in re.findall(r'"(.*?)"', block.group(1))]
    assert [requirement.name for requirement in declared] == [
        r.name for r in requirements("runtime.txt")
    ]
    pins = requirements("constraints.txt")
    for requirement in declared:
        versions = [
            str(pin.specifier).removeprefix("==") for pin in pins if pin.name == requirement.name
        ]
        assert versions
        assert all(requirement.specifier.contains(version) for version in versions)
