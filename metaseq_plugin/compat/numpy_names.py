"""NumPy ≥ 1.24 and 2.0 dropped ``np.int``, ``np.float`` and ``np.compat.long``; fairseq uses them.

The names are provided inside the fairseq module that asks for them, through a stand-in for its
global ``np``; NumPy itself is left alone, so other packages see what they would see without us.
"""

from types import ModuleType, SimpleNamespace
from typing import Any, Optional

import numpy

LOST = {"int": int, "float": float, "compat": SimpleNamespace(long=int)}


class NumpyWithOldNames(ModuleType):
    """``numpy``, plus the names of ``LOST`` that the installed NumPy lacks."""

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(numpy, name)
        except AttributeError:
            if name in LOST:
                return LOST[name]
            raise


def provide_lost_names(module: Any) -> Optional[str]:
    if all(name in vars(numpy) for name in LOST):
        return f"NumPy {numpy.__version__}"
    module.np = NumpyWithOldNames("numpy")
    return None
