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
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from fairseq.data import MonolingualDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset, data_file_path, index_file_path
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
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


def open_index(prefix: str) -> MMapIndexedDataset.Index:
    """The index of a memory-mapped split; UserError where the file is of another kind."""
    path, magic = Path(index_file_path(prefix)), MMapIndexedDataset.Index._HDR_MAGIC
    with path.open("rb") as stream:
        found = stream.read(len(magic))
    if found != magic:
        raise UserError(
            f"{path} must be the index of a memory-mapped split, but is not. Make the data folder "
            "again, with `metaseq prepare` or `fairseq-preprocess --dataset-impl mmap`."
        )
    return MMapIndexedDataset.Index(str(path))


class TokenStream:
    """The documents of one or more binarised files as a single memory-mapped stream.

    Pickles as its paths, so that data workers map the files themselves.
    """

    def __init__(self, prefixes: List[str]) -> None:
        self.prefixes = prefixes
        self.files: List[np.ndarray] = []
        sizes = []
        for prefix in prefixes:
            index = open_index(prefix)
            path = Path(data_file_path(prefix))
            expected = int(index.sizes.sum(dtype=np.int64)) * index.dtype().itemsize
            if path.stat().st_size != expected:
                raise UserError(
                    f"{path} must have the {expected:,} bytes that its index promises, but has "
                    f"{path.stat().st_size:,}. Make the data folder again."
                )
            if expected == 0:
                raise UserError(
                    f"{path} must hold at least one token, but is empty. Make the data folder again."
                )
            self.files.append(np.memmap(path, dtype=index.dtype, mode="r"))
            sizes.append(index.sizes.astype(np.int64))
        # Where each document, and each file, ends in the stream; the first entry is 0.
        self.document_ends = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        self.file_ends = np.concatenate([[0], np.cumsum([len(tokens) for tokens in self.files])])

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
            parts.append(self.files[number][max(0, start - offset) : end - offset])
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

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor, None]:
        start, end = int(self.boundaries[index]), int(self.boundaries[index + 1])
        if start == 0 or (self.separates_documents and self.begins_document(start)):
            tokens = np.concatenate([[self.eos], self.stream.read(start, end)])
        else:
            tokens = self.stream.read(start - 1, end)
        block = torch.from_numpy(tokens)  # (1 + size,)
        return block[:-1], block[1:], None

    def begins_document(self, position: int) -> bool:
        ends = self.stream.document_ends
        return bool(ends[np.searchsorted(ends, position)] == position)

    def check_vocabulary(self, vocab_size: int, data: str) -> None:
        """Refuse data made with a larger dictionary, as far as 1,000 blocks spread over it show."""
        for index in np.linspace(0, len(self) - 1, min(len(self), 1000), dtype=np.int64):
            largest = int(self[int(index)][1].max())
            if largest >= vocab_size:
                raise UserError(
                    f"Token ids in {data} must be below the {vocab_size:,} types of its dict.txt, "
                    f"but one is {largest:,}. Use the dictionary that the data was made with."
                )


class BlockBatches(MonolingualDataset):
    """Blocks collated as fairseq's language-modeling task does; fairseq asks for a batch of no blocks too."""

    def collater(self, samples: List[Dict[str, Any]]) -> Batch:
        """The batch of ``samples``, (B, T)."""
        return super().collater(samples) if samples else empty_batch(int(self.sizes.max()))
