"""fairseq's numbers in MLflow, which it has no door to: as W&B and Aim get them, from rank 0.

    MLFLOW_TRACKING_URI=http://… fairseq-train … --mlflow-experiment opt

(1) Around ``main``, the run is found or made: one MLflow run for each --save-dir, so that a run that resumes goes on in it;
    it is closed as finished, or as failed.
(2) fairseq's progress bar, which is handed every line of numbers and the options, hands them on.

Lines are sent one by one, and each waits for the server, within ``PATIENCE``. One that cannot be sent ends the sending,
with a warning; training goes on.
"""

import hashlib
import logging
import os
import time
from contextvars import ContextVar
from functools import wraps
from importlib import import_module
from typing import Any, Callable, Dict, Iterator, Optional

from metaseq_plugin.compat.errors import UserError, brief
from metaseq_plugin.compat.parallel_doors import host_of_rank
from metaseq_plugin.compat.trackers import mlflow_experiment

logger = logging.getLogger(__name__)

TAG = "metaseq.folder"
MOST_PARAMS, LONGEST_PARAM = (
    100,
    500,
)  # of one request, and characters of one: what all servers take
# While rank 0 waits for the server the others wait for it, and NCCL gives up after ten minutes; MLflow's own bounds, of
# 120 s and five more tries or seven, come to more.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class MLflowRun:
    """One run in MLflow, found by its folder.

    Args:
        experiment: name; it is made if it is not there.
        save_dir: of the run.

    Raises:
        UserError: MLflow cannot be asked.
    """

    def __init__(self, experiment: str, save_dir: str) -> None:
        self._mlflow: Any = import_module("mlflow")
        self._is_sending, self._is_mine = True, False
        for name, bound in PATIENCE.items():
            os.environ.setdefault(name, bound)
        try:
            self._client = self._mlflow.MlflowClient()
            self._id = self._found_or_made(experiment, os.path.abspath(save_dir))
        except self._mlflow.exceptions.MlflowException as error:
            raise UserError(
                f"`--mlflow-experiment` must be one that MLflow can be told of, but is {experiment}: "
                f"{brief(first_line(error))} Set MLFLOW_TRACKING_URI, or leave it out."
            ) from error

    def _found_or_made(self, experiment: str, folder: str) -> str:
        place = self._experiment(experiment)
        sign = hashlib.sha256(folder.encode()).hexdigest()[:16]  # a name could not be quoted
        runs = self._client.search_runs([place], f"tags.`{TAG}` = '{sign}'", max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        tags = {TAG: sign, "save_dir": folder}
        self._is_mine = True
        run = self._client.create_run(place, run_name=os.path.basename(folder), tags=tags)
        return str(run.info.run_id)

    def _experiment(self, name: str) -> str:
        """Its id. Of runs that start together, as those of a sweep, one makes it and the others find it made."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except self._mlflow.exceptions.MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, stats: Any, tag: str, step: int) -> None:
        """The numbers of a line."""
        now, entities = int(time.time() * 1000), self._mlflow.entities
        metrics = [
            entities.Metric(f"{tag}/{name}", value, now, step) for name, value in numbers(stats)
        ]
        self._send(lambda: self._client.log_batch(self._id, metrics=metrics))

    def params(self, config: Any) -> None:
        """The options of the run; one that an earlier start has said stays as it was."""
        self._send(lambda: self._send_params(config))

    def _send_params(self, config: Any) -> None:
        self._is_mine = True
        self._client.update_run(self._id, status="RUNNING")
        entities = self._mlflow.entities
        known = self._client.get_run(self._id).data.params
        new = [
            entities.Param(name, str(value)[:LONGEST_PARAM])
            for name, value in flat(config).items()
            if name not in known
        ]
        for first in range(0, len(new), MOST_PARAMS):
            self._client.log_batch(self._id, params=new[first : first + MOST_PARAMS])

    def close(self, status: str) -> None:
        """Say how it ended; of a start that was refused before it trained, nothing: another may be training it."""
        if self._is_mine:
            self._send(lambda: self._client.set_terminated(self._id, status))

    def _send(self, what: Callable[[], Any]) -> None:
        if not self._is_sending:
            return
        try:
            what()
        except self._mlflow.exceptions.MlflowException as error:
            self._is_sending = False
            logger.warning(f"MLflow is sent nothing more: {first_line(error)}")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def numbers(stats: Any) -> Iterator["tuple[str, float]"]:
    """The single numbers of a line, meters by their last value, as fairseq's other trackers draw them."""
    for name, value in stats.items():
        last = value.val if hasattr(value, "val") else value
        if name != "num_updates" and last is not None and not isinstance(last, str):
            yield name, float(last)


def flat(config: Any, group: str = "") -> Dict[str, Any]:
    """{"optimization": {"lr": 1}} → {"optimization.lr": 1}."""
    found: Dict[str, Any] = {}
    for name, value in config.items():
        key = f"{group}{name}"
        found.update(flat(value, f"{key}.") if isinstance(value, dict) else {key: value})
    return found


class MLflowBar:
    """A progress bar of fairseq's that tells an MLflow run, too."""

    def __init__(self, bar: Any, run: MLflowRun) -> None:
        self._bar, self._run = bar, run

    def __iter__(self) -> Iterator[Any]:
        return iter(self._bar)

    def __len__(self) -> int:
        return len(self._bar)

    def log(self, stats: Any, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        self._tell(stats, tag, step)
        self._bar.log(stats, tag=tag, step=step)

    def print(self, stats: Any, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        self._tell(stats, tag, step)
        self._bar.print(stats, tag=tag, step=step)

    def update_config(self, config: Any) -> None:
        self._run.params(config)
        self._bar.update_config(config)

    def _tell(self, stats: Any, tag: Optional[str], step: Optional[int]) -> None:
        self._run.log(stats, tag or "", int(stats["num_updates"] if step is None else step))


# That of the run that this process trains, if it has one.
_run: ContextVar[Optional[MLflowRun]] = ContextVar("mlflow_run", default=None)


def tracking(main: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.main``, which rank 0 tells MLflow of where it was asked to."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        asked = mlflow_experiment(cfg.task)
        is_first = cfg.distributed_training.distributed_rank == 0
        if host_of_rank(cfg) is None or not asked or not is_first:
            return main(cfg)
        run, status = MLflowRun(asked, cfg.checkpoint.save_dir), "FAILED"
        token = _run.set(run)
        try:
            result = main(cfg)
            status = "FINISHED"
            return result
        finally:
            _run.reset(token)
            run.close(status)

    return wrapper


def telling_mlflow(progress_bar: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq.logging.progress_bar.progress_bar``."""

    @wraps(progress_bar)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        bar, run = progress_bar(*args, **kwargs), _run.get()
        return bar if run is None else MLflowBar(bar, run)

    return wrapper
