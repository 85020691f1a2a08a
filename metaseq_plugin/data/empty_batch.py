"""The batch of a rank that gets no samples: a real one without targets, which adds nothing.

Where the batches of an epoch are not a multiple of ranks × ``--update-freq``, some ranks get one fewer in the last
update. They must go through the model all the same, because the others wait for them in every collective. fairseq
takes an update whose last batch is empty for no data at all: the gradients of the rank's other batches stay, their
tokens do not (``Trainer.train_step``, ``sample_size *= 0``); and ``fairseq-validate`` hands an empty one on to the
criterion. So every loader here, in training and in validation, gives this batch, and fairseq never meets an
empty one.
"""

from typing import Any, Dict

import torch

from metaseq_plugin.tokenizers.base import EOS, PAD

Batch = Dict[str, Any]  # a sample of fairseq


def empty_batch(num_tokens: int) -> Batch:
    """A batch of one row of ``num_tokens`` whose targets are all padding: loss, gradients and counts are 0."""
    return {
        "id": torch.tensor([-1]),
        "nsentences": 0,
        "ntokens": 0,
        "net_input": {
            "src_tokens": torch.full((1, num_tokens), EOS),
            "src_lengths": torch.tensor([num_tokens]),
        },
        "target": torch.full((1, num_tokens), PAD),
    }
