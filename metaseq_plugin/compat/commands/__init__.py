"""The console script ``metaseq``: ``doctor`` is answered from here, everything else by ``metaseq_plugin.cli``.

The start-up hook has put ``metaseq_plugin.compat`` in place, so that importing this folder does not
import the package, and with it torch and fairseq. (The entry points stand in this file because a
module one level further down would: Python's import of a parent imports the top of the name, too.)
The same holds for ``cli``, so it is loaded by its path: only a subcommand that runs pays for the libraries.
A fairseq that is missing or cannot be imported ends in one sentence; any other error keeps its
traceback.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Optional, Sequence

NEEDED_TO_START = ("torch", "omegaconf", "hydra", "fairseq")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the ``metaseq`` command; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:2] == ["help", "doctor"]:
        arguments = ["doctor", "--help"]
    if arguments[:1] == ["doctor"]:
        from metaseq_plugin.compat.commands.doctor import main as run_doctor

        return run_doctor(arguments[1:])
    missing = [name for name in NEEDED_TO_START if find_spec(name) is None]
    if missing:
        sentence = (
            f"{', '.join(missing)} must be installed, but cannot be found. Run `metaseq doctor`."
        )
        print(f"metaseq: error: {sentence}", file=sys.stderr)  # noqa: T201
        return 1
    return load_cli().main(arguments)


def load_cli() -> ModuleType:
    """``metaseq_plugin.cli``, by its path: importing it by its name would import the package first."""
    spec = spec_from_file_location("metaseq_plugin.cli", Path(__file__).parents[2] / "cli.py")
    assert spec is not None, "a name that ends in .py has a loader"
    cli = module_from_spec(spec)
    spec.loader.exec_module(cli)  # type: ignore[union-attr]
    return cli
