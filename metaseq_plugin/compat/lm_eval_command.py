"""``lm_eval --model metaseq_opt`` works wherever lm_eval and the plugin are both installed.

lm_eval has no entry points for models of others: its names stand in a registry, a name and the place of a class
each. The first seam adds ours, whose module is imported only when it is asked for. The second one lets a user's
mistake end in one sentence with exit status 2; whatever else lm_eval raises or prints stays as it is.
"""

import sys
from functools import wraps
from types import ModuleType
from typing import Any, Callable, Optional

from metaseq_plugin.compat.errors import EXIT_USER_ERROR, UserError

NAME = "metaseq_opt"
PLACE = "metaseq_plugin.evaluate.lm_eval_model:MetaseqOPT"


def naming_our_model(models: ModuleType) -> Optional[str]:
    """Add our name to those of ``lm_eval.models``."""
    if "MODEL_MAPPING" not in vars(models):
        return "this lm_eval has no registry of places"
    from lm_eval.api.registry import model_registry

    model_registry.register(NAME, target=PLACE)
    return None


def in_one_sentence(cli_evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """``lm_eval``'s command, brief about a ``UserError``."""

    @wraps(cli_evaluate)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return cli_evaluate(*args, **kwargs)
        except UserError as error:
            sys.stdout.flush()
            print(f"lm_eval: error: {error}", file=sys.stderr, flush=True)  # noqa: T201
            raise SystemExit(EXIT_USER_ERROR) from None

    return wrapper
