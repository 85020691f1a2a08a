"""Binarised documents cut into the blocks a language model is trained on.

The documents of a split lie one behind the other in ``<split>.bin`` (``fairseq-preprocess`` and
``metaseq prepare`` write it): one stream of tokens. Every block is a range of that stream, so a
split is described by the block boundaries alone:

    none      every ``block_size`` tokens, wherever documents end; the last block may be shorter
    complete  as many whole documents as fit; a document longer than a block is cut into several
    eos       one document a block; a longer one is cut into several

A block's target is its range, its source the same range one token earlier, so each token of the
corpus is predicted exactly once per epoch, given what came before it in its document. The first
token of the stream, and of every document in the modes that separate documents, is given ``</s>``,
OPT's document separator.

fairseq's own ``TokenBlockDataset`` is not used: it counts block sizes in 16 bits (an ``eos`` block of
70,000 tokens has size 4,464), cannot cut long documents, and reads whole documents to return a part.
"""

from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from fairseq.data import MonolingualDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.token_file import TokenFile
from metaseq_plugin.data.empty_batch import Batch, empty_batch


class SampleBreakMode(str, Enum):
    """Where one block ends and the next begins; fairseq's names."""

    none = "none"
    complete = "complete"
    eos = "eos"


def find_split(data: str, split: str, combine: bool) -> List[str]:
    """File prefixes of ``split`` in folder ``data``: one, or with ``combine`` also split1, split2, …"""
    prefixes: List[str] = []
    while combine or not prefixes:
        prefix = str(Path(data) / split) + (str(len(prefixes)) if prefixes else "")
        if not MMapIndexedDataset.exists(prefix):
            break
        prefixes.append(prefix)
    if not prefixes:
        present = sorted(p.stem for p in Path(data).glob("*.idx"))
        raise UserError(
            f"The data folder must hold {split}.bin and {split}.idx, but {data} holds "
            f"{', '.join(present) if present else 'no binarised split'}. "
            f"Make it with `metaseq prepare`, or set --train-subset, --valid-subset or --gen-subset."
        )
    return prefixes


class TokenStream:
    """The documents of one or more binarised files as a single stream.

    Pickles as its paths, so that data workers open the files themselves.
    """

    def __init__(self, prefixes: List[str]) -> None:
        self.prefixes = prefixes
        self.files = [TokenFile(prefix) for prefix in prefixes]
        sizes = [file.sizes for file in self.files]
        # Where each document, and each file, ends in the stream; the first entry is 0.
        self.document_ends = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        self.file_ends = np.concatenate([[0], np.cumsum([len(file) for file in self.files])])

    def __getstate__(self) -> Dict[str, Any]:
        return {"prefixes": self.prefixes}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__init__(state["prefixes"])  # type: ignore[misc]

    def __len__(self) -> int:
        return int(self.document_ends[-1])

    def read(self, start: int, end: int) -> np.ndarray:
        """Tokens [start, end) of the stream as int64, (end - start,)."""
        parts = []
        first = int(np.searchsorted(self.file_ends, start, side="right")) - 1
        for number in range(first, len(self.files)):
            offset = int(self.file_ends[number])
            if offset >= end:
                break
            file = self.files[number]
            parts.append(file.read(max(0, start - offset), min(end - offset, len(file))))
        return np.concatenate(parts).astype(np.int64)


def block_boundaries(
    document_ends: np.ndarray, block_size: int, break_mode: SampleBreakMode
) -> np.ndarray:
    """Where blocks begin and end in the stream: block i is [b[i], b[i+1]).

    Args:
        document_ends: (documents + 1,) int64, increasing from 0.
    """
    num_tokens = int(document_ends[-1])
    if break_mode == SampleBreakMode.none:
        return np.append(np.arange(0, num_tokens, block_size), num_tokens)
    if break_mode == SampleBreakMode.eos:
        sizes = np.diff(document_ends)
        pieces = -(-sizes // block_size)  # an empty document has none
        piece_number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = np.repeat(document_ends[:-1], pieces) + piece_number * block_size
        return np.append(starts, num_tokens)
    boundaries = [0]
    while boundaries[-1] < num_tokens:
        start = boundaries[-1]
        last = int(np.searchsorted(document_ends, start + block_size, side="right")) - 1
        end = int(document_ends[last])
        # No document ends within reach: cut the one that is too long.
        boundaries.append(end if end > start else start + block_size)
    return np.asarray(boundaries, dtype=np.int64)


class TokenBlocks(torch.utils.data.Dataset):
    """(source, target, None) of every block, as ``fairseq.data.MonolingualDataset`` takes them.

    Args:
        block_size: longest block in tokens.
        eos: id of the document separator.
    """

    def __init__(
        self, stream: TokenStream, block_size: int, break_mode: SampleBreakMode, eos: int
    ) -> None:
        self.stream = stream
        self.eos = eos
        self.separates_documents = break_mode != SampleBreakMode.none
        self.boundaries = block_boundaries(stream.document_ends, block_size, break_mode)
        self.sizes = np.diff(self.boundaries)  # (blocks,) tokens
        self.num_types: Optional[int] = None  # of the dictionary, once it has been compared

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor, None]:
        start, end = int(self.boundaries[index]), int(self.boundaries[index + 1])
        if start == 0 or (self.separates_documents and self.begins_document(start)):
            tokens = np.concatenate([[self.eos], self.stream.read(start, end)])
        else:
            tokens = self.stream.read(start - 1, end)
        if self.num_types is not None:
            self._check_ids(tokens, self.num_types)
        block = torch.from_numpy(tokens)  # (1 + size,)
        return block[:-1], block[1:], None

    def begins_document(self, position: int) -> bool:
        ends = self.stream.document_ends
        return bool(ends[np.searchsorted(ends, position)] == position)

    def check_vocabulary(self, num_types: int, data: str) -> None:
        """Refuse data made with a larger dictionary: here in 1,000 blocks spread over it, then in each that is read."""
        for index in np.linspace(0, len(self) - 1, min(len(self), 1000), dtype=np.int64):
            self._check_ids(self[int(index)][1].numpy(), num_types, data)
        self.num_types = num_types

    def _check_ids(self, tokens: np.ndarray, num_types: int, data: Optional[str] = None) -> None:
        if tokens.view(np.uint64).max() >= num_types:  # as such, a negative id is a large one
            wrong = tokens[(tokens < 0) | (tokens >= num_types)]
            raise UserError(
                f"Token ids in {data or ', '.join(self.stream.prefixes)} must be below the {num_types:,} "
                f"types of its dict.txt, but one is {wrong[0]:,}. Use the dictionary that the data was "
                "made with."
            )


class BlockBatches(MonolingualDataset):
    """Blocks collated as fairseq's language-modeling task does; fairseq asks for a batch of no blocks too."""

    def collater(self, samples: List[Dict[str, Any]]) -> Batch:
        """The batch of ``samples``, (B, T)."""
        return super().collater(samples) if samples else empty_batch(int(self.sizes.max()))
