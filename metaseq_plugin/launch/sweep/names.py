"""The name of a run: what varies, in short. ``{"lr": 0.0006, "batch-size": 8}`` -> ``lr0.0006.bs8``, as in metaseq.

Keys that are often varied have metaseq's short names, others their own. A flag stands for itself: ``fp16``,
``no-fp16``. A comma becomes ``_``, and so does all that a shell or a path could take for something else. A name that
is too long is cut, and ends with a hash of the whole.
"""

import hashlib
import re
from typing import Mapping

from metaseq_plugin.launch.spec import Value

LONGEST = 96  # a job's name, a folder's, and a line of a table
HASH_DIGITS = 8
SINGLE = "run"  # where nothing varies
SHORT = {
    "attention-dropout": "atdr",
    "batch-size": "bs",
    "clip-norm": "cl",
    "dropout": "dr",
    "lr": "lr",
    "max-update": "mu",
    "model-parallel-size": "mp",
    "seed": "s",
    "tokens-per-sample": "tps",
    "update-freq": "uf",
    "warmup-updates": "wu",
    "weight-decay": "wd",
}
FROM_TO = "--"  # between a run's name and that of one that starts from it


def name_of(values: Mapping[str, Value]) -> str:
    """A plain file name of at most ``LONGEST`` characters; the same for the same values."""
    return cut(".".join(word(key, value) for key, value in values.items()) or SINGLE)


def follower_name(parent: str, own: str) -> str:
    """Of a run that starts from ``parent``."""
    return parent if own == SINGLE else cut(f"{parent}{FROM_TO}{own}")


def word(key: str, value: Value) -> str:
    key = key.rpartition(".")[2]  # resources.nodes
    if key in ("arch", "base"):
        return safe(str(value)) or f"no-{key}"
    short = SHORT.get(key, safe(key))
    if value is None or value is False:
        return f"no-{short}"
    return short if value is True else f"{short}{safe(str(value))}"


def safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("_")


def cut(name: str) -> str:
    if len(name) <= LONGEST:
        return name
    digits = hashlib.sha256(name.encode()).hexdigest()[:HASH_DIGITS]
    return f"{name[: LONGEST - HASH_DIGITS - 1]}-{digits}"
