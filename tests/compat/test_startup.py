"""The start-up hook: light, silent, reaching every child process, and switched off by one variable."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

RunPython = Callable[..., subprocess.CompletedProcess[str]]
SEAM_FINDERS = "[type(f).__name__ for f in sys.meta_path].count('SeamFinder')"


def finders_here() -> int:
    return [type(finder).__name__ for finder in sys.meta_path].count("SeamFinder")


def test_every_interpreter_has_the_finder_and_not_the_package(run_python: RunPython) -> None:
    done = run_python(f"import sys; print({SEAM_FINDERS}, 'metaseq_plugin' in sys.modules)")
    assert (done.stdout, done.stderr) == ("1 False\n", "")


def test_the_hook_imports_nothing_but_itself(run_python: RunPython) -> None:
    code = "import sys; names = sorted(sys.modules); import json; print(json.dumps(names))"
    with_hook = set(json.loads(run_python(code).stdout))
    without = set(json.loads(run_python(code, METASEQ_PLUGIN_COMPAT="0").stdout))
    assert with_hook - without <= {
        "__future__",
        "metaseq_plugin.compat",
        "metaseq_plugin.compat.startup",
    }


def test_the_variable_switches_it_off(run_python: RunPython) -> None:
    done = run_python(f"import sys; print({SEAM_FINDERS})", METASEQ_PLUGIN_COMPAT="0")
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_nothing_is_touched_until_fairseq_or_hydra_is_imported(run_python: RunPython) -> None:
    code = (
        "import dataclasses, warnings; before = dataclasses.dataclass, list(warnings.filters);"
        "import torch, numpy;"
        "from metaseq_plugin.compat import startup;"
        "print(dataclasses.dataclass is before[0], startup.REPORT)"
    )
    assert run_python(code).stdout == "True {}\n"


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_worker_processes_have_it(method: str) -> None:
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(finders_here) == 1


def test_installing_twice_leaves_one_finder(run_python: RunPython) -> None:
    code = f"from metaseq_plugin.compat import startup; import sys; startup.install(); print({SEAM_FINDERS})"
    assert run_python(code).stdout == "1\n"


@pytest.mark.slow
def test_fairseq_still_imports_the_user_dir(run_python: RunPython, tmp_path: Path) -> None:
    """The hook must leave the parent package to fairseq, or its components are not registered."""
    code = (
        "import sys; from types import SimpleNamespace; from importlib.util import find_spec;"
        "from pathlib import Path; from fairseq.utils import import_user_module;"
        "package = Path(find_spec('metaseq_plugin.compat.startup').origin).parent.parent;"
        "assert 'metaseq_plugin' not in sys.modules;"
        "import_user_module(SimpleNamespace(user_dir=str(package)));"
        "print('metaseq_plugin' in sys.modules)"
    )
    done = run_python(code)
    assert done.stdout.splitlines()[-1:] == ["True"], done.stderr
    assert "has already been imported" not in done.stdout + done.stderr


@pytest.mark.slow
def test_plain_pytest_starts_and_can_use_hydra(tmp_path: Path) -> None:
    """hydra is a pytest plugin: pytest's rewriting hook loads it past our finder."""
    (tmp_path / "test_plain.py").write_text(
        "def test_compose():\n"
        "    from fairseq import options\n"
        "    from fairseq.dataclass.utils import convert_namespace_to_omegaconf\n"
        "    parser = options.get_training_parser()\n"
        "    args = options.parse_args_and_arch(parser, ['x', '--arch', 'transformer_lm_gpt2_tiny', '--task', 'language_modeling'])\n"
        "    assert convert_namespace_to_omegaconf(args).task._name == 'language_modeling'\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("pytest"))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 accepts these defaults")
def test_without_the_hook_plain_pytest_dies(tmp_path: Path) -> None:
    """What the test above guards against is real: without the hook pytest cannot even start."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("pytest"))],
        cwd=tmp_path,
        env={**environment, "METASEQ_PLUGIN_COMPAT": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "mutable default" in done.stderr
