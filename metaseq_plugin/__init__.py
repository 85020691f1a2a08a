"""OPT language models for fairseq: ``fairseq-train --user-dir metaseq_plugin …``.

Importing this package registers every component, by explicit imports and nothing else: fairseq
imports a user directory's ``tasks/`` and ``models/`` by itself, but not when the package has been
imported before, and never its ``criterions/`` or ``optim/``.
"""

from metaseq_plugin.compat import startup

startup.install()  # a no-op where the start-up hook is installed

from metaseq_plugin.compat.host import register  # noqa: E402
from metaseq_plugin.criterions import chunked_cross_entropy  # noqa: E402
from metaseq_plugin.host import OPTHost  # noqa: E402
from metaseq_plugin.models import opt  # noqa: E402
from metaseq_plugin.optim import adamw  # noqa: E402
from metaseq_plugin.tasks import (  # noqa: E402
    opt_dummy_lm,
    opt_language_modeling,
    opt_streaming_finetune_language_modeling,
    opt_streaming_language_modeling,
)
from metaseq_plugin.tokenizers import fairseq_bpe  # noqa: E402

register(OPTHost())

__all__ = [
    "adamw",
    "chunked_cross_entropy",
    "fairseq_bpe",
    "opt",
    "opt_dummy_lm",
    "opt_language_modeling",
    "opt_streaming_finetune_language_modeling",
    "opt_streaming_language_modeling",
]
