"""Whatever the documents, blocks hold every token once, and are those that ``token_blocks`` finds."""

from itertools import pairwise
from typing import List, Sequence, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.data.binarized.token_blocks import SampleBreakMode, block_boundaries
from metaseq_plugin.data.streaming.packing import (
    BAD,
    DOCUMENTS,
    EMPTY,
    START,
    TOKENS,
    Block,
    Packer,
)
from metaseq_plugin.data.streaming.rounds import collated
from metaseq_plugin.data.streaming.tokens import Tokenised
from metaseq_plugin.tokenizers.base import EOS, PAD

NUM_CORPORA = 3
BAD_DOCUMENT = -1
# Sizes of documents, </s> included; 0 is an empty one, BAD_DOCUMENT a bad one.
DOCUMENT_SIZES = st.lists(st.one_of(st.integers(BAD_DOCUMENT, 0), st.integers(1, 40)), max_size=40)
CUTS = st.lists(st.integers(0, 40), max_size=6)  # where the documents are cut into runs
MODES = st.sampled_from(list(SampleBreakMode))


def documents_of(sizes: Sequence[int]) -> Tuple[np.ndarray, np.ndarray]:
    """Tokens of all documents, every word another, each document closed; corpora in turns."""
    tokens, first = [], 10
    for size in sizes:
        if size > 0:
            tokens += [*range(first, first + size - 1), EOS]
            first += size
    return np.array(tokens, dtype=np.int64), np.arange(len(sizes)) % NUM_CORPORA


def packed(packer: Packer, sizes: Sequence[int], first: int, cuts: Sequence[int]) -> List[Block]:
    """The blocks of documents from ``first`` on, added in runs."""
    tokens, corpora = documents_of(sizes)
    counted = np.maximum(np.array(sizes, dtype=np.int64), 0)
    ends = np.concatenate([[0], np.cumsum(counted)])
    edges = sorted({first, len(sizes), *(cut for cut in cuts if first < cut < len(sizes))})
    blocks: List[Block] = []
    for begin, end in pairwise(edges):
        is_bad = np.array(sizes[begin:end]) == BAD_DOCUMENT
        run = Tokenised(tokens[ends[begin] : ends[end]], counted[begin:end], is_bad, [])
        packer.add(corpora[begin:end], run)
        while (block := packer.take(is_last=False)) is not None:
            blocks.append(block)
    while (block := packer.take(is_last=True)) is not None:
        blocks.append(block)
    return blocks


@settings(deadline=None, max_examples=300)
@given(DOCUMENT_SIZES, CUTS, st.integers(1, 20), MODES)
def test_blocks_hold_the_stream(
    sizes: List[int], cuts: List[int], block_size: int, mode: SampleBreakMode
) -> None:
    packer = Packer(block_size, mode, NUM_CORPORA, START)
    blocks = packed(packer, sizes, 0, cuts)
    stream, _ = documents_of(sizes)
    targets = [block.tokens[1:].tolist() for block in blocks]
    assert [token for target in targets for token in target] == stream.tolist()
    before = [EOS, *stream.tolist()]
    assert [t for block in blocks for t in block.tokens[:-1].tolist()] == before[: len(stream)]
    for block in blocks:
        assert block.tokens[1:-1].tolist() == block.tokens[:-1][1:].tolist()  # shifted by one

    ends = np.concatenate([[0], np.cumsum(np.maximum(sizes, 0))]).astype(np.int64)
    boundaries = block_boundaries(ends, block_size, mode) if len(stream) else np.array([0])
    assert [len(target) for target in targets] == np.diff(boundaries).tolist()


@settings(deadline=None, max_examples=200)
@given(DOCUMENT_SIZES, st.integers(1, 20))
def test_no_block_crosses_what_its_mode_forbids(sizes: List[int], block_size: int) -> None:
    stream_size = sum(max(size, 0) for size in sizes)
    for block in packed(Packer(block_size, SampleBreakMode.eos, 3, START), sizes, 0, []):
        assert EOS not in block.tokens[1:-1]  # no token of another document
    complete = packed(Packer(block_size, SampleBreakMode.complete, 3, START), sizes, 0, [])
    block_ends = np.cumsum([len(block.tokens) - 1 for block in complete]).tolist()
    document_ends = np.cumsum(np.maximum(sizes, 0)).tolist()
    for end, size in zip(document_ends, sizes):
        cuts = [cut for cut in block_ends if end - size < cut < end]
        assert size > block_size or not cuts  # a document that fits is whole
    none = packed(Packer(block_size, SampleBreakMode.none, 3, START), sizes, 0, [])
    assert all(len(block.tokens) == block_size + 1 for block in none[:-1])
    assert len(none) == -(-stream_size // block_size)


@settings(deadline=None, max_examples=200)
@given(DOCUMENT_SIZES, CUTS, CUTS, st.integers(1, 20), MODES, st.data())
def test_packing_goes_on_from_any_block(
    sizes: List[int],
    cuts: List[int],
    other_cuts: List[int],
    block_size: int,
    mode: SampleBreakMode,
    data: st.DataObject,
) -> None:
    whole = Packer(block_size, mode, NUM_CORPORA, START)
    blocks = packed(whole, sizes, 0, cuts)
    if not blocks:
        return
    number = data.draw(st.integers(0, len(blocks) - 1))
    position = blocks[number].next
    resumed = Packer(block_size, mode, NUM_CORPORA, position)
    rest = packed(resumed, sizes, position["document"], other_cuts)
    assert len(rest) == len(blocks) - number - 1
    for ours, expected in zip(rest, blocks[number + 1 :]):
        assert ours.number == expected.number
        assert ours.next == expected.next
        assert ours.tokens.tolist() == expected.tokens.tolist()
        assert ours.tally.tolist() == expected.tally.tolist()
    assert resumed.rest().tolist() == whole.rest().tolist()


@settings(deadline=None, max_examples=200)
@given(DOCUMENT_SIZES, CUTS, st.integers(1, 20), MODES)
def test_tallies_count_everything_once(
    sizes: List[int], cuts: List[int], block_size: int, mode: SampleBreakMode
) -> None:
    packer = Packer(block_size, mode, NUM_CORPORA, START)
    blocks = packed(packer, sizes, 0, cuts)
    for block in blocks:
        assert block.tally[:, TOKENS].sum() == len(block.tokens) - 1
    tally = sum((block.tally for block in blocks), packer.rest())
    for corpus in range(NUM_CORPORA):
        own = sizes[corpus::NUM_CORPORA]
        expected = {
            DOCUMENTS: sum(size > 0 for size in own),
            TOKENS: sum(max(size, 0) for size in own),
            EMPTY: own.count(0),
            BAD: own.count(BAD_DOCUMENT),
        }
        assert {column: tally[corpus, column] for column in expected} == expected


@settings(deadline=None, max_examples=100)
@given(DOCUMENT_SIZES, st.integers(1, 20), MODES)
def test_padding_is_never_counted(sizes: List[int], block_size: int, mode: SampleBreakMode) -> None:
    blocks = packed(Packer(block_size, mode, NUM_CORPORA, START), sizes, 0, [])
    batch = collated(blocks, 1, block_size)
    if not blocks:
        assert (batch["nsentences"], batch["ntokens"]) == (0, 0)
        assert not batch["target"].ne(PAD).any()
        return
    source, target = batch["net_input"]["src_tokens"], batch["target"]
    assert batch["ntokens"] == int(target.ne(PAD).sum()) == sum(max(size, 0) for size in sizes)
    assert source.ne(PAD).equal(target.ne(PAD))
    assert source.shape[1] <= max(block_size, 1)
    kept = target[:, :-1].ne(PAD) & source[:, 1:].ne(PAD)
    assert target[:, :-1][kept].equal(source[:, 1:][kept])


@pytest.mark.parametrize("mode", SampleBreakMode)
def test_the_width_of_a_batch_is_a_multiple_of_eight(mode: SampleBreakMode) -> None:
    blocks = packed(Packer(30, mode, NUM_CORPORA, START), [3, 9], 0, [])
    assert collated(blocks, 1, 30)["target"].shape[1] == 16
