"""The ``metaseq`` command: what it says of itself, and that it says so without torch and fairseq."""

import subprocess
from importlib import import_module
from importlib.metadata import version
from typing import Any, Callable

import pytest

from metaseq_plugin import cli

RunPython = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = """
import sys
from metaseq_plugin.compat.commands import main
try:
    status = main({arguments})
except SystemExit as end:
    status = end.code
print("loaded:", *sorted({{"torch", "fairseq", "metaseq_plugin"}} & set(sys.modules)))
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "data      Look at a corpus, or clean it."),
        (["data", "--help"], 0, "clean     Copy a corpus without its debris: bad and too short"),
        (["help"], 0, "data      Look at a corpus, or clean it."),
        (
            ["help", "run"],
            2,
            "metaseq: error: argument SUBCOMMAND: invalid choice: 'run' (choose from",
        ),
        (["--version"], 0, f"metaseq-plugin {version('metaseq-plugin')}"),
        ([], 2, "metaseq: error: the following arguments are required: SUBCOMMAND"),
        (["data"], 2, "metaseq data: error: the following arguments are required: SUBCOMMAND"),
        (["run"], 2, "metaseq: error: argument SUBCOMMAND: invalid choice: 'run' (choose from"),
    ],
)
def test_what_needs_no_library_imports_none(
    run_python: RunPython, arguments: list[str], status: int, said: str
) -> None:
    done = run_python(COMMAND.format(arguments=arguments))
    assert done.returncode == status, done.stderr
    assert said in (done.stderr if status else done.stdout)
    assert done.stdout.endswith("loaded:\n")


@pytest.mark.parametrize(
    "arguments", [["launch", "--help"], ["launch", "status", "--help"], ["launch", "opt_125n"]]
)
def test_to_launch_imports_neither_torch_nor_fairseq(
    run_python: RunPython, arguments: list[str]
) -> None:
    done = run_python(COMMAND.format(arguments=arguments))
    assert done.returncode == (2 if "opt_125n" in arguments else 0), done.stderr
    assert done.stdout.endswith("loaded: metaseq_plugin\n")


def test_a_line_of_the_list_is_a_subcommand(run_python: RunPython) -> None:
    done = run_python(COMMAND.format(arguments=["--help"]))
    listed = done.stdout.split("SUBCOMMAND\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == ["doctor", "help", *cli.SUBCOMMANDS]


def test_help_of_doctor_is_the_doctors_own(run_python: RunPython) -> None:
    asked = (["help", "doctor"], ["doctor", "--help"])
    first, second = (run_python(COMMAND.format(arguments=arguments)) for arguments in asked)
    assert first.stdout == second.stdout
    assert "say whether this environment can train, and what to mend." in first.stdout


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "prepare",
        "data inspect",
        "data clean",
        "convert",
        "reshard",
        "generate",
        "serve",
        "launch status",
        "launch stop",
        "launch logs",
    ],
)
def test_a_subcommand_has_its_modules_arguments_and_docstring(
    name: str, before: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["help", *name.split()] if before else [*name.split(), "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    module: Any = cli.MEMBERS if name.startswith("launch ") else cli.SUBCOMMANDS
    for word in name.split():
        module = module[word]
    assert printed.startswith(f"usage: metaseq {name} [")
    assert str(import_module(str(module)).__doc__).strip() in printed
