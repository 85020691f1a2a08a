"""Blocks against the definition written out token by token, and against fairseq's own blocks."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import TokenBlockDataset, data_utils
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.token_blocks import (
    SampleBreakMode,
    TokenBlocks,
    TokenStream,
    block_boundaries,
    find_split,
)
from tests.fairseq_runs import EOS, write_data, write_split

MODES = list(SampleBreakMode)
lengths = st.lists(st.integers(0, 30), min_size=1, max_size=30).filter(any)


def ends(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


@pytest.mark.parametrize("mode", MODES)
@given(sizes=lengths, block_size=st.integers(1, 12))
def test_every_token_stands_in_exactly_one_block(
    mode: SampleBreakMode, sizes: list[int], block_size: int
) -> None:
    boundaries = block_boundaries(ends(sizes), block_size, mode)
    assert boundaries[0] == 0
    assert boundaries[-1] == sum(sizes)
    assert (np.diff(boundaries) > 0).all()
    assert (np.diff(boundaries) <= block_size).all()


@given(sizes=lengths, block_size=st.integers(1, 12))
def test_none_fills_every_block_but_the_last(sizes: list[int], block_size: int) -> None:
    boundaries = block_boundaries(ends(sizes), block_size, SampleBreakMode.none)
    assert (np.diff(boundaries)[:-1] == block_size).all()


@given(sizes=lengths, block_size=st.integers(1, 12))
def test_eos_never_joins_documents(sizes: list[int], block_size: int) -> None:
    boundaries = set(block_boundaries(ends(sizes), block_size, SampleBreakMode.eos).tolist())
    assert set(np.cumsum(sizes).tolist()) <= boundaries
    assert len(boundaries) - 1 == sum(-(-size // block_size) for size in sizes)


@given(sizes=lengths, block_size=st.integers(1, 12))
def test_complete_cuts_only_documents_longer_than_a_block(
    sizes: list[int], block_size: int
) -> None:
    boundaries = block_boundaries(ends(sizes), block_size, SampleBreakMode.complete)
    document_ends = ends(sizes)
    for start, cut in pairwise(boundaries):
        if cut not in document_ends:  # the block lies inside one document, and is full
            assert cut - start == block_size
            assert not ((document_ends > start) & (document_ends <= cut)).any()


def blocks_of(folder: Path, mode: SampleBreakMode, block_size: int = 16) -> TokenBlocks:
    return TokenBlocks(
        TokenStream(find_split(str(folder), "train", combine=False)), block_size, mode, EOS
    )


@pytest.mark.parametrize("mode", MODES)
def test_source_is_target_one_token_earlier(tmp_path: Path, mode: SampleBreakMode) -> None:
    blocks = blocks_of(write_data(tmp_path), mode)
    stream = blocks.stream.read(0, len(blocks.stream))
    seen: list[int] = []
    for index in range(len(blocks)):
        source, target, _ = blocks[index]
        assert torch.equal(source[1:], target[:-1])
        assert len(target) == blocks.sizes[index]
        start = len(seen)
        # Documents end in </s>, so what precedes a document is </s> in every mode.
        assert source[0] == (stream[start - 1] if start else EOS)
        seen += target.tolist()
    assert seen == stream.tolist()


@pytest.mark.parametrize("mode", MODES)
def test_equals_fairseq_where_fairseq_can(tmp_path: Path, mode: SampleBreakMode) -> None:
    block_size = 64  # longer than any document, so that fairseq need not cut one
    ours = blocks_of(write_data(tmp_path), mode, block_size)
    data = data_utils.load_indexed_dataset(str(tmp_path / "train"), None, "mmap")
    theirs = TokenBlockDataset(
        data, data.sizes, block_size, pad=1, eos=EOS, break_mode=mode.value, include_targets=True
    )
    assert len(ours) == len(theirs)
    for index in range(len(ours)):
        for our_part, their_part in zip(ours[index][:2], theirs[index][:2]):
            assert torch.equal(our_part, their_part)


def test_document_longer_than_sixteen_bits(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [[5] * 70_000, [6] * 3])
    blocks = blocks_of(tmp_path, SampleBreakMode.eos, block_size=2048)
    assert blocks.sizes.sum() == 70_001 + 4
    assert blocks.sizes[-1] == 4


def test_combined_splits_are_one_stream(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [[5, 6, 7]])
    write_split(tmp_path, "train1", [[8, 9]])
    stream = TokenStream(find_split(str(tmp_path), "train", combine=True))
    assert stream.read(0, len(stream)).tolist() == [5, 6, 7, EOS, 8, 9, EOS]
    assert stream.read(2, 6).tolist() == [7, EOS, 8, 9]


def test_stream_pickles_as_its_paths(tmp_path: Path) -> None:
    stream = blocks_of(write_data(tmp_path, documents=2000), SampleBreakMode.none).stream
    pickled = pickle.dumps(stream)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).read(3, 9).tolist() == stream.read(3, 9).tolist()


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_data(tmp_path) / "train.bin"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        UserError, match=r"train\.bin must have the .* bytes that its index promises"
    ):
        blocks_of(tmp_path, SampleBreakMode.none)


def test_ids_beyond_the_dictionary_are_refused(tmp_path: Path) -> None:
    blocks = blocks_of(write_data(tmp_path, vocab_size=40), SampleBreakMode.none)
    blocks.check_vocabulary(40, "data")
    with pytest.raises(UserError, match="must be below the 39 types"):
        blocks.check_vocabulary(39, "data")
