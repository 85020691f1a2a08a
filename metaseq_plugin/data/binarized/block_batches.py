"""Blocks collated into batches as fairseq's language-modeling task does; fairseq asks for one of no blocks too."""

from typing import Any, Dict, List

from fairseq.data import MonolingualDataset

from metaseq_plugin.data.empty_batch import Batch, empty_batch


class BlockBatches(MonolingualDataset):
    """Batches of blocks; targets are the next tokens."""

    def collater(self, samples: List[Dict[str, Any]]) -> Batch:
        """The batch of ``samples``, (B, T)."""
        return super().collater(samples) if samples else empty_batch(int(self.sizes.max()))
