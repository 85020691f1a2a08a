"""The architecture of the checkpoint that a run starts from: taken over, or held against the run's.

    fairseq-train data … --finetune-from-model opt-13b/checkpoint.pt      # --arch is left out
    fairseq-train data … --save-dir runs/a                                # the run is to go on

Only settings are read here: the tensors of a file are mapped, and nobody looks at them.
"""

import logging
import os
from pathlib import Path
from typing import Any, List, Mapping, Optional

from metaseq_plugin.checkpoint.choose import candidates, find
from metaseq_plugin.checkpoint.manifest import SetName, files_of
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_file import open_file
from metaseq_plugin.compat.checkpoint_errors import DEFAULT_RESTORE_FILE
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.sizes import ARCH, DIMENSIONS, dimensions_of, flags_of, is_opt

logger = logging.getLogger(__name__)


def likely_start(args: Any) -> Optional[SetName]:
    """What ``choose`` will start from, not verified yet; None where the run starts anew.

    Args:
        args: fairseq's options of checkpoints, as parsed.
    """
    if args.restore_file != DEFAULT_RESTORE_FILE:
        return find(Path(args.restore_file))
    own = candidates(Path(args.save_dir), args.checkpoint_suffix)
    if own:
        return own[0]
    other = args.continue_once or args.finetune_from_model
    return None if other is None else find(Path(other))


def flags_of_start(args: Any) -> List[str]:
    """``--arch`` and the dimensions of the checkpoint that a run with ``args`` starts from.

    Raises:
        UserError: there is none, or it is not of an OPT.
    """
    name = likely_start(args)
    if name is None or not name.exists:
        found = "neither is given" if name is None else f"it is missing, and {name} does not exist"
        raise UserError(
            "`--arch` must be given, or a checkpoint to take it from, but "
            f"{found}. Set --arch {ARCH}_125m, for example, or --finetune-from-model."
        )
    settings = open_file(files_of(name)[1][0]).settings("model")
    if not is_opt(settings.get("_name")):
        raise UserError(
            f"`--arch` must be given where the checkpoint does not say it, but is missing, and {name} is "
            f"of {settings.get('_name') or 'an unknown model'}. Set it, or use `metaseq convert` first."
        )
    flags = flags_of(settings)
    if os.environ.get("RANK", "0") == "0":
        logger.info(f"architecture of {name}: {' '.join(flags)}")
    return flags


def check_dimensions(saved: CheckpointSet, model: Mapping[str, Any]) -> None:
    """Refuse to go on from a model of other dimensions, with the flags of the saved one.

    Not all of them show in the tensors' shapes: another number of heads is another model silently.
    """
    settings = saved.first.settings("model")
    if not is_opt(settings.get("_name")):  # it does not say; then the shapes must
        return
    theirs, ours = dimensions_of(settings), dimensions_of(model)
    others = [
        f"--{name.replace('_', '-')} {ours[name]} instead of {theirs[name]}"
        for name in DIMENSIONS
        if ours[name] != theirs[name]
    ]
    if others:
        raise UserError(
            f"The model must have the dimensions of the one in {saved.name}, but has "
            f"{', '.join(others)}. Set {' '.join(flags_of(settings))}, and no other --decoder- option."
        )
