"""Refuse to watch a run with what is not installed, where fairseq warns at every epoch and goes on without.

fairseq's progress bar imports TensorBoard, W&B, Aim and Azure ML where they are there (``mlflow_tracker`` adds MLflow). The seam stands
around ``fairseq_cli.train.main``, and looks for them without importing any.
"""

from functools import wraps
from importlib.util import find_spec
from typing import Any, Callable, Mapping, NamedTuple, Optional, Tuple

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.parallel_doors import host_of_rank

MLFLOW_FIELD = "mlflow_experiment"  # of our tasks


class Tracker(NamedTuple):
    """An option of fairseq's (its field of ``common``) or of our tasks, and the modules one of which it needs."""

    field: str
    name: str
    modules: Tuple[str, ...]
    distribution: str


TRACKERS = (
    Tracker("tensorboard_logdir", "TensorBoard", ("tensorboard", "tensorboardX"), "tensorboard"),
    Tracker("wandb_project", "W&B", ("wandb",), "wandb"),
    Tracker("aim_repo", "Aim", ("aim",), "aim"),
    Tracker("azureml_logging", "Azure ML", ("azureml.core",), "azureml-core"),
    Tracker(MLFLOW_FIELD, "MLflow", ("mlflow",), "mlflow"),
)


def requiring_installed(main: Callable[..., Any]) -> Callable[..., Any]:
    """``main``, which trains a model of ours only where what is to watch the run is installed."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        if host_of_rank(cfg) is not None:
            check_trackers({**cfg.common, MLFLOW_FIELD: mlflow_experiment(cfg.task)})
        return main(cfg)

    return wrapper


def check_trackers(options: Mapping[str, Any]) -> None:
    """Refuse those of ``options`` that need what is not installed, all in one message."""
    problems = [
        f"`--{tracker.field.replace('_', '-')}` must have {tracker.name} installed, but it is not. "
        f"Run `python -m pip install {tracker.distribution}`, or leave it out."
        for tracker in TRACKERS
        if options.get(tracker.field) and not any(map(is_installed, tracker.modules))
    ]
    if problems:
        raise UserError(*problems)


def mlflow_experiment(task: Any) -> Optional[str]:
    """The one that was asked for; tasks other than ours do not know the option."""
    return task[MLFLOW_FIELD] if MLFLOW_FIELD in task else None  # noqa: SIM401 (omegaconf's get raises)


def is_installed(module: str) -> bool:
    """Whether ``module`` can be imported; a folder of that name without code, as W&B makes one, cannot."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # of the package that it is in
        return False
    return spec is not None and spec.origin is not None
