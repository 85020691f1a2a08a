"""``--user-dir metaseq_plugin`` from any folder, and for ``fairseq-hydra-train`` in time.

fairseq looks for a user directory under the current folder and beside itself, and so misses an
editable install. Hydra composes the configuration before fairseq imports the user directory, and so
misses our ``task=``, ``model=``, ``criterion=`` and ``optimizer=`` choices.
"""

import os
import sys
from argparse import Namespace
from functools import wraps
from pathlib import Path
from typing import Any, Callable

PACKAGE = Path(__file__).parent.parent
HYDRA_OPTION = "common.user_dir="


def finding_us(import_user_module: Callable[[Any], None]) -> Callable[[Any], None]:
    """``import_user_module``, but our package's bare name always means this package."""

    @wraps(import_user_module)
    def wrapper(args: Any) -> None:
        if (
            hasattr(args, "user_dir")
            and args.user_dir == PACKAGE.name
            and not os.path.exists(PACKAGE.name)
        ):
            args.user_dir = str(PACKAGE)
        import_user_module(args)

    return wrapper


def importing_first(cli_main: Callable[[], Any]) -> Callable[[], Any]:
    """``fairseq-hydra-train`` that imports ``common.user_dir=…`` before hydra composes."""

    @wraps(cli_main)
    def wrapper() -> Any:
        from fairseq import utils

        for argument in sys.argv[1:]:
            if argument.lstrip("+").startswith(HYDRA_OPTION):
                utils.import_user_module(Namespace(user_dir=argument.split("=", 1)[1]))
        return cli_main()

    return wrapper
