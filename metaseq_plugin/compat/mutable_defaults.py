"""Python ≥ 3.11 refuses a dataclass default that has no hash; three host modules have such defaults.

fairseq 0.12.2 and hydra-core 1.0.7 write ``common: CommonConfig = CommonConfig()``. Since Python
3.11 that is "mutable default … use default_factory", raised for any default whose class sets
``__hash__ = None``, as ``@dataclass`` does. Giving exactly these modules' dataclasses a hash
(``unsafe_hash=True``) keeps their field defaults where ``fairseq.dataclass.initialize`` reads them;
a rewrite to ``default_factory`` would not.

The repair stands at the decorator and looks at the module of the decorated class, so it holds
whichever import machinery loads the module (pytest's assertion rewriting loads hydra past finders).
"""

import dataclasses
import sys
from functools import wraps
from typing import Any, Callable, Optional

MODULES = frozenset(
    {
        "fairseq.dataclass.configs",
        "fairseq.models.transformer.transformer_config",
        "hydra.conf",
    }
)


def hashable_in(modules: frozenset[str], dataclass: Callable[..., Any]) -> Callable[..., Any]:
    """``dataclass``, but with ``unsafe_hash=True`` for classes defined in ``modules``."""

    @wraps(dataclass)
    def wrapper(cls: Optional[type] = None, /, **options: Any) -> Any:
        if cls is None:
            return lambda cls: wrapper(cls, **options)
        if cls.__module__ in modules:
            options.setdefault("unsafe_hash", True)
        return dataclass(cls, **options)

    wrapper.repairs_mutable_defaults = True  # type: ignore[attr-defined]
    return wrapper


def give_hashes() -> Optional[str]:
    if sys.version_info >= (3, 11):
        if not hasattr(dataclasses.dataclass, "repairs_mutable_defaults"):
            dataclasses.dataclass = hashable_in(MODULES, dataclasses.dataclass)  # type: ignore[assignment]
        return None
    return "Python < 3.11"
