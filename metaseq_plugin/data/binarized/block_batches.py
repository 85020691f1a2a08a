"""Blocks collated into batches as fairseq's language-modeling task does, but for a batch of nothing.

Where an epoch's batches are not a multiple of ranks × ``--update-freq``, fairseq fills up with empty ones. It takes
an update whose last batch is empty for no data at all: the gradients of this rank's other batches stay, their
tokens do not (``Trainer.train_step``, ``sample_size *= 0``). So an empty batch here is a real one without
targets, which adds nothing to either.
"""

from typing import Any, Dict, List

from fairseq.data import MonolingualDataset


class BlockBatches(MonolingualDataset):
    """Batches of blocks; targets are the next tokens."""

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """The batch of ``samples``, (B, T); of none, one (1, T) whose targets are all padding."""
        if samples:
            return super().collater(samples)
        batch = super().collater([self[0]])
        batch["target"].fill_(self.vocab.pad())
        return {**batch, "nsentences": 0, "ntokens": 0}
