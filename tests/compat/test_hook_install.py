"""pip installs the start-up hook with the package, in every kind of wheel, and removes it with it.

Wheels are built by the installed setuptools, without network, from a copy of the checkout, and
installed into an empty environment.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOOK = "metaseq_plugin_hook.pth"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs a checkout"),
]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "metaseq_plugin", copy / "metaseq_plugin", ignore=ignore)
    return copy


@pytest.fixture
def empty_python(tmp_path: Path) -> Path:
    venv.create(tmp_path / "empty", with_pip=False)
    return tmp_path / "empty/bin/python"


def site_packages(python: Path) -> Path:
    return next(python.parent.parent.glob("lib/python3.*/site-packages"))


def build(kind: str, checkout: Path, destination: Path) -> Path:
    """A wheel of ``kind`` from ``checkout``, through the build backend that pip calls."""
    destination.mkdir(exist_ok=True)
    source = checkout
    if kind == "sdist":
        code = f"from setuptools import build_meta as b; b.build_sdist({str(destination)!r})"
        run(sys.executable, "-c", code, cwd=checkout)
        shutil.unpack_archive(next(destination.glob("*.tar.gz")), destination)
        source = next(path for path in destination.iterdir() if path.is_dir())
    function = "build_editable" if kind == "editable" else "build_wheel"
    code = f"from setuptools import build_meta as b; b.{function}({str(destination)!r})"
    run(sys.executable, "-c", code, cwd=source)
    return next(destination.glob("*.whl"))


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_hook_comes_and_goes_with_the_package(
    kind: str, checkout: Path, empty_python: Path, tmp_path: Path
) -> None:
    wheel = build(kind, checkout, tmp_path / "wheels")
    pip = (sys.executable, "-m", "pip", "--python", empty_python)
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = site_packages(empty_python)
    assert f"{HOOK},sha256=" in next(site.glob("metaseq_plugin-*.dist-info/RECORD")).read_text()
    code = "import sys; print(type(sys.meta_path[0]).__name__, sys.modules['metaseq_plugin.compat'].__path__)"
    home = checkout if kind == "editable" else site
    output = run(empty_python, "-c", code, cwd=tmp_path)
    assert output == f"SeamFinder {[str(home / 'metaseq_plugin/compat')]}\n"

    run(*pip, "uninstall", "-y", "metaseq-plugin", cwd=tmp_path)
    assert list(site.parent.rglob("*metaseq*")) == []  # pip removes the emptied folder, too
    assert "SeamFinder" not in run(
        empty_python, "-c", "import sys; print(sys.meta_path)", cwd=tmp_path
    )


def test_a_checkout_that_moved_away_breaks_nothing(
    checkout: Path, empty_python: Path, tmp_path: Path
) -> None:
    wheel = build("editable", checkout, tmp_path / "wheels")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        empty_python,
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=tmp_path,
    )
    checkout.rename(tmp_path / "moved")
    assert run(empty_python, "-c", "print('fine')", cwd=tmp_path) == "fine\n"
    (tmp_path / "checkout/metaseq_plugin").mkdir(parents=True)  # an empty folder of that name
    assert run(empty_python, "-c", "print('fine')", cwd=tmp_path) == "fine\n"
