"""Keep fairseq's start of a run of ours off the console: the configuration, the printed model, …

``distributed/start_report.py`` says in ten lines what they say in a hundred, and keeps the configuration
in the run's folder; ``--log-file`` still gets everything, its folder made if need be. Warnings, and all
other lines, are shown.
"""

import logging
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Callable, Iterator

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.parallel_doors import host_of_rank

# Logger -> the beginnings of what is not shown; besides, whatever is no text: the configuration, the model.
HIDDEN = {
    "fairseq_cli.train": (
        "task: ", "model: ", "criterion: ", "num. shared model params: ", "num. expert model params: ",
        "training on ", "max tokens per device = ", "Start iterating over samples",
    ),
    "fairseq.trainer": (
        "Preparing to load checkpoint", "No existing checkpoint found", "loading train data for epoch",
    ),
    "fairseq.data.iterators": ("grouped total_num_itrs = ",),
    "fairseq.utils": ("*****", "rank "),
}  # fmt: skip


class Quiet(logging.Filter):
    """Turns the hidden lines of ``logger`` away, but for its own handlers: fairseq's ``--log-file``."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self.logger = logger

    def filter(self, record: logging.LogRecord) -> bool:
        is_text = isinstance(record.msg, str)
        if record.levelno > logging.INFO or (
            is_text and not record.msg.startswith(HIDDEN[self.logger.name])
        ):
            return True
        for handler in self.logger.handlers:
            handler.handle(record)
        return False


@contextmanager
def hiding() -> Iterator[None]:
    """Within, the hidden lines are not shown."""
    with ExitStack() as stack:
        for logger in map(logging.getLogger, HIDDEN):
            quiet = Quiet(logger)
            logger.addFilter(quiet)
            stack.callback(logger.removeFilter, quiet)
        yield


def make_folder(folder: Path) -> None:
    """The folder of ``--log-file``, which fairseq opens before anything else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"`--log-file` must lie in a folder that can be made, but {folder} cannot "
            f"({error.strerror}). Set another."
        ) from error


def quietly(main: Callable[..., Any]) -> Callable[..., Any]:
    """``main``, which hides the lines where the model is ours."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        if host_of_rank(cfg) is None:
            return main(cfg)
        if cfg.common.log_file is not None:
            make_folder(Path(cfg.common.log_file).absolute().parent)
        with hiding():
            return main(cfg)

    return wrapper
