"""An evaluation on several ranks, each of which holds the whole model and answers every n-th chunk.

torchrun --nproc_per_node 2 $(which metaseq) eval crows-pairs --path runs/quickstart --data eval-data

ranks = meet(model_parallel_size=1)
with own_file(items, path, ranks.rank, header) as own: …     rank 0's is the items file itself
adopt(items, fresh=False)                                    rank 0 takes over what the others recorded

eval-harms.items.jsonl            rank 0's, and all of it in the end
eval-harms.items.rank1.jsonl      rank 1's, while it runs; what a killed run left of it is taken over, too
"""

import glob
import os
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Iterator, Optional

import torch
import torch.distributed as dist

from metaseq_plugin.compat.errors import LostRank, UserError
from metaseq_plugin.compat.last_words import lost_rank
from metaseq_plugin.evaluate.items_file import Header, ItemsFile, difference, opened_items
from metaseq_plugin.launch.decoding_ranks import number_in_environment
from metaseq_plugin.layout.peers import ALONE, Ranks, all_ranks

# Ranks wait for the slowest; that one has ended they notice from its connection.
LONGEST_WAIT = timedelta(days=7)


def are_data_ranks(model_parallel_size: int) -> bool:
    """Whether torchrun started ranks that each hold the whole model."""
    return model_parallel_size == 1 and number_in_environment() > 1


def own_device(device: Optional[str]) -> Optional[str]:
    """``--device`` of a rank that holds the whole model: of several GPUs, its own."""
    if device not in (None, "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


@contextmanager
def met(model_parallel_size: int) -> Iterator[Ranks]:
    """The ranks among which chunks are dealt, until the block ends.

    Raises:
        LostRank: another one has ended.
    """
    if not are_data_ranks(model_parallel_size):
        yield ALONE
        return
    try:
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        yield all_ranks()
        dist.destroy_process_group()
    except RuntimeError as error:
        sentence = lost_rank(error)
        if sentence is None:
            raise
        raise LostRank(sentence) from error


def path_of(items: Path, rank: int) -> Path:
    return items.with_name(f"{items.name.removesuffix('.jsonl')}.rank{rank}.jsonl")


@contextmanager
def own_file(
    items: Optional[ItemsFile], path: Path, rank: int, header: Header
) -> Iterator[ItemsFile]:
    """Where a rank records: rank 0 in ``items``, at ``path``, another one beside it."""
    if items is not None:
        yield items
        return
    with opened_items(path_of(path, rank), fresh=False) as own:
        own.begin(header)
        yield own


def adopt(items: ItemsFile, fresh: bool) -> None:
    """Take over what other ranks have recorded beside ``items``, and remove their files.

    Args:
        fresh: take nothing over.

    Raises:
        UserError: they recorded it of something else.
    """
    pattern = str(path_of(items.path, 0)).replace(".rank0.jsonl", "")
    for path in map(Path, sorted(glob.glob(f"{glob.escape(pattern)}.rank*.jsonl"))):
        with opened_items(path, fresh) as part:
            if part.header is not None and items.header is not None:
                differs = difference(part.header, items.header)
                if differs:
                    raise UserError(
                        f"`--output` must have recorded items of this model, these options and data, but {path} "
                        f"differs in {', '.join(differs)}. Set another --output, or --fresh."
                    )
            items.append([row for name, row in part.entries.items() if name not in items.entries])
        path.unlink(missing_ok=True)
