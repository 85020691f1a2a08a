"""Where a run that resumes goes on in its data.

Three kinds of position lie in ``extra_state["train_iterator"]``:
(1) tasks of ours name the samples that went by ("streaming", "blocks"), and go on under any ranks and batches
    themselves;
(2) fairseq's number of batches a rank, of another task or an earlier version, is counted over all ranks and
    dealt anew, where the batches are made as they were;
(3) a position behind which no update of its epoch is left is the next epoch's beginning.
"""

import logging
from typing import Any, Dict

from metaseq_plugin.compat.errors import UserError

logger = logging.getLogger(__name__)

OF_SAMPLES = ("streaming", "blocks")  # keys of positions that say which samples went by
# Options that decide what batches an epoch has, and in which order.
MAKING = {
    "dataset": ("max_tokens", "batch_size", "required_batch_size_multiple", "grouped_shuffling"),
    "common": ("seed",),
}


def counts_batches(iterator: Dict[str, Any]) -> bool:
    """Whether ``iterator`` is inside an epoch, at a number of batches."""
    return iterator.get("iterations_in_epoch", 0) > 0 and not any(
        key in iterator for key in OF_SAMPLES
    )


def scaled_position(
    iterator: Dict[str, Any], saved_size: int, size: int, says_so: bool = True
) -> Dict[str, Any]:
    """The position for ``size`` data-parallel ranks: batches are dealt to them in turn."""
    if not counts_batches(iterator):
        return iterator
    batches = iterator["iterations_in_epoch"] * saved_size
    position, repeated = divmod(batches, size)
    if repeated and says_so:
        logger.warning(
            f"the checkpoint has seen {batches} batches of this epoch, which {size} data-parallel "
            f"ranks cannot share out evenly: {repeated} of them will be seen twice"
        )
    return {**iterator, "iterations_in_epoch": position}


def check_making(iterator: Dict[str, Any], saved_cfg: Dict[str, Any], cfg: Any) -> None:
    """Refuse other batches than those that ``iterator`` counts.

    Args:
        saved_cfg: the configuration in the checkpoint.
    """
    if not counts_batches(iterator):
        return
    for group, names in MAKING.items():
        held = saved_cfg.get(group)
        saved = held if isinstance(held, dict) else {}
        for name in names:
            if name in saved and saved[name] != cfg[group][name]:
                raise UserError(
                    f"`--{name.replace('_', '-')}` must stay {saved[name]} until the checkpoint's epoch ends, "
                    f"but is {cfg[group][name]}. Set it as it was, or --reset-dataloader to begin the data anew."
                )


def check_place(iterator: Dict[str, Any], batches: int) -> None:
    """Refuse a number of batches that an epoch of ``batches`` does not have."""
    if counts_batches(iterator) and iterator["iterations_in_epoch"] >= batches:
        raise UserError(
            "The checkpoint's place in its data must lie in an epoch, but it is behind "
            f"{iterator['iterations_in_epoch']:,} batches of a rank and an epoch has {batches:,}. Set the data "
            "and --tokens-per-sample as they were, or --reset-dataloader to begin the data anew."
        )


def has_update_left(epoch_itr: Any, optimization: Any) -> bool:
    """Whether ``epoch_itr``, inside an epoch, has batches for another update of it."""
    freqs, skips = optimization.update_freq, optimization.skip_remainder_batch
    update_freq = freqs[min(epoch_itr.epoch, len(freqs)) - 1]
    left = len(epoch_itr) - epoch_itr.iterations_in_epoch
    return left > update_freq if skips else left > 0
