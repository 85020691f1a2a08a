"""Python ≥ 3.12 dropped ``find_module`` from its path finders; hydra 1.0.7 finds its plugins by it.

``hydra.core.plugins`` walks its packages with ``pkgutil`` and asks each entry's finder for
``find_module(name).load_module(name)``. The module's global ``pkgutil`` gets a stand-in whose
finders answer that with an ordinary import; ``pkgutil`` itself is left alone.

It is applied after ``fairseq.dataclass.utils`` too, which imports hydra's half: pytest's assertion
rewriting loads hydra, one of its plugins, past our finder.
"""

import importlib
import pkgutil
import sys
from types import SimpleNamespace
from typing import Any, Iterator, Optional

OLD_STYLE_FINDER = SimpleNamespace(
    find_module=lambda name: SimpleNamespace(load_module=importlib.import_module)
)


def walk_packages(*args: Any, **kwargs: Any) -> Iterator[tuple[SimpleNamespace, str, bool]]:
    """``pkgutil.walk_packages`` with finders that still have ``find_module``."""
    for entry in pkgutil.walk_packages(*args, **kwargs):
        yield OLD_STYLE_FINDER, entry.name, entry.ispkg


def provide_find_module(target: Any) -> Optional[str]:
    if sys.version_info >= (3, 12):
        plugins: Any = sys.modules["hydra.core.plugins"]
        plugins.pkgutil = SimpleNamespace(walk_packages=walk_packages)
        return None
    return "Python < 3.12"
