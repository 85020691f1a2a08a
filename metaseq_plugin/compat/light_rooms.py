"""Import the rooms that need neither torch nor fairseq without importing the package, which takes seconds.

    open_rooms()
    import_module("metaseq_plugin.launch.plan.command")     # 0.1 s instead of 3

``import metaseq_plugin`` registers every component with fairseq, and Python imports a package before what is
in it, unless it knows that already. So the rooms of ``ROOMS`` come in as empty packages with the right path, as
the start-up hook (setup.py) brings in ``metaseq_plugin.compat``, and ``sizes`` is loaded by its path. What is opened
so says ``from metaseq_plugin.room.module import name``: ``from metaseq_plugin.room import module`` asks Python for the
package itself.
Who needs a component later imports the package as ever: it finds the rooms that are open, and registers all.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

HOME = Path(__file__).parents[1]
ROOMS = (
    "launch",
    "layout",
    "ledger",
    "modules",
    "optim",
    "storage",
)  # their __init__.py hold a docstring and no more
MODULES = ("sizes",)


def open_rooms() -> None:
    """Make ``ROOMS`` and ``MODULES`` importable by themselves; nothing changes where the package is imported."""
    if HOME.name in sys.modules:
        return
    for room in ROOMS:
        package = ModuleType(f"{HOME.name}.{room}")
        package.__path__ = [str(HOME / room)]
        sys.modules.setdefault(package.__name__, package)
    for name in MODULES:
        _load(f"{HOME.name}.{name}", HOME / f"{name}.py")


def _load(name: str, path: Path) -> None:
    spec = spec_from_file_location(name, path)
    if name in sys.modules or spec is None or spec.loader is None:
        return
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
