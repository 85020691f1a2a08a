"""A requeued job may find its former start still at work, on a node that SLURM has lost: it waits for it to end.

The first rank of a run holds ``SAVE_DIR/run.lock`` (``checkpoint/run_lock.py``), and would refuse to train beside it.
"""

import logging
import time
from pathlib import Path

from metaseq_plugin.compat.errors import UserError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 600.0  # longer than an agent takes to find out that its job is no longer its own
SECONDS_BETWEEN_LOOKS = 2.0


def wait_until_free(save_dir: Path, patience: float = PATIENCE_SECONDS) -> None:
    """Return when no run holds ``save_dir``, or after ``patience`` seconds: then the ranks say who does."""
    from metaseq_plugin.checkpoint.run_lock import LOCK_FILE, take

    path = save_dir / LOCK_FILE
    deadline = time.monotonic() + patience
    while path.exists():
        try:
            _, held = take(path)
            held.close()
            return
        except UserError as error:
            if time.monotonic() > deadline:
                return
            logger.info(f"waiting for the start before this one to end: {error}")
        time.sleep(SECONDS_BETWEEN_LOOKS)
