"""The stock ``lm_eval`` knows ``metaseq_opt`` where both are installed, and is itself otherwise."""

import subprocess
from types import ModuleType
from typing import Callable

import pytest

from metaseq_plugin.compat.commands import doctor
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.lm_eval_command import in_one_sentence, naming_our_model

RunPython = Callable[..., subprocess.CompletedProcess[str]]
NAMES = (
    "import sys; import lm_eval.models; from lm_eval.api.registry import model_registry;"
    "print('metaseq_opt' in model_registry, 'hf' in model_registry, 'torch' in sys.modules)"
)


@pytest.mark.parametrize(
    ("switch", "printed"), [("1", "True True False\n"), ("0", "False True False\n")]
)
def test_the_name_is_known_and_costs_nothing(
    run_python: RunPython, switch: str, printed: str
) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    done = run_python(NAMES, METASEQ_PLUGIN_COMPAT=switch)
    assert done.stdout == printed, done.stderr


@pytest.mark.slow
def test_a_mistake_ends_the_command_in_one_sentence(run_python: RunPython) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    done = run_python(
        "import sys; from lm_eval.__main__ import cli_evaluate;"
        "sys.argv[1:] = '--model metaseq_opt --model_args path=no/such --tasks arc_easy'.split();"
        "cli_evaluate()"
    )
    assert done.returncode == 2
    assert "\nlm_eval: error: The model must exist, but no/such does not." in done.stderr
    assert "Traceback" not in done.stderr


def test_only_a_users_mistake_is_told_briefly(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken() -> None:
        raise UserError("`path` must be there.")

    def broken() -> None:
        raise ValueError("lm_eval's own")

    with pytest.raises(SystemExit) as ended:
        in_one_sentence(mistaken)()
    assert (ended.value.code, capsys.readouterr().err) == (
        2,
        "lm_eval: error: `path` must be there.\n",
    )
    with pytest.raises(ValueError, match="lm_eval's own"):
        in_one_sentence(broken)()
    assert in_one_sentence(lambda: 5)() == 5


def test_an_lm_eval_without_places_is_left_alone() -> None:
    assert (
        naming_our_model(ModuleType("lm_eval.models")) == "this lm_eval has no registry of places"
    )


def test_the_doctor_does_without_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "installed_version", lambda name: None if name == "lm-eval" else "1"
    )
    rows = [row for row in doctor.seam_rows({}) if row.value.startswith("lm_eval.")]
    assert [row.state for row in rows] == ["not needed (lm-eval is not installed)"] * 2
    assert not any(row.problem for row in rows)
