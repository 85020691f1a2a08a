"""``--aim-repo``: Aim takes texts and numbers of Python's own only, and fairseq hands it whatever it has.

(1) Options that are a choice of a few, which are texts to everybody else, end the run; here they are their text.
(2) So does a meter among the numbers of a line; here it is its last value, as TensorBoard and W&B draw it.
"""

from enum import Enum
from functools import wraps
from typing import Any, Callable

from metaseq_plugin.compat.mlflow_tracker import numbers


def telling_texts(update_config: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """``AimProgressBarWrapper.update_config``."""

    @wraps(update_config)
    def wrapper(bar: Any, config: Any) -> None:
        update_config(bar, with_texts(config))

    return wrapper


def with_texts(config: Any) -> Any:
    """``config`` with the value of each choice, however deep."""
    if isinstance(config, dict):
        return {name: with_texts(value) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [with_texts(value) for value in config]
    return config.value if issubclass(type(config), Enum) else config


def telling_numbers(log_to_aim: Callable[..., None]) -> Callable[..., None]:
    """``AimProgressBarWrapper._log_to_aim``."""

    @wraps(log_to_aim)
    def wrapper(bar: Any, stats: Any, tag: Any = None, step: Any = None) -> None:
        at = stats["num_updates"] if step is None else step
        log_to_aim(bar, dict(numbers(stats)), tag, at)

    return wrapper
