"""fairseq's memory-mapped dataset (``split.bin`` + ``split.idx``), written from arrays.

``fairseq.data.indexed_dataset.MMapIndexedDatasetBuilder`` writes the same bytes (a test compares
them), but takes one tensor a document and keeps Python integers for each; this one takes many
documents at once and keeps four bytes for each.

``split.bin`` is every document's token ids, one after the other. ``split.idx`` is a header, the
number of documents, their sizes in tokens (int32), and the byte offset of each (int64).
"""

import struct
from pathlib import Path

import numpy as np
from fairseq.data.indexed_dataset import MMapIndexedDataset, _dtype_header_code

HEADER_VERSION = 1


class BinarizedWriter:
    """Writes ``folder/split.bin``, and ``folder/split.idx`` on ``close``.

    ``dtype`` is what ``fairseq.data.indexed_dataset.best_fitting_int_dtype`` says.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype) -> None:
        self._index_path = folder / f"{split}.idx"
        self._dtype = dtype
        self._data = (folder / f"{split}.bin").open("wb")
        self._sizes: list[np.ndarray] = []

    def add(self, tokens: np.ndarray, sizes: np.ndarray) -> None:
        """Append documents: ``tokens`` (sum of sizes,) of all of them, ``sizes`` (documents,)."""
        if tokens.dtype != self._dtype or sizes.dtype != np.int32:
            raise AssertionError(f"expected {self._dtype}, int32: {tokens.dtype}, {sizes.dtype}")
        self._data.write(tokens.tobytes())
        self._sizes.append(sizes)

    def close(self) -> None:
        self._data.close()
        sizes = np.concatenate(self._sizes) if self._sizes else np.zeros(0, dtype=np.int32)
        ends = np.cumsum(sizes, dtype=np.int64) * self._dtype.itemsize
        with self._index_path.open("wb") as index:
            index.write(MMapIndexedDataset.Index._HDR_MAGIC)
            index.write(struct.pack("<QB", HEADER_VERSION, _dtype_header_code(self._dtype)))
            index.write(struct.pack("<Q", len(sizes)))
            index.write(sizes.tobytes())
            index.write((ends - sizes.astype(np.int64) * self._dtype.itemsize).tobytes())
