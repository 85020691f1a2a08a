"""The batch of a rank without samples goes through a real model and leaves no trace."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq.criterions.cross_entropy import CrossEntropyCriterion

from metaseq_plugin.criterions.chunked_cross_entropy import ChunkedCrossEntropyCriterion
from metaseq_plugin.data.binarized.token_blocks import (
    BlockBatches,
    SampleBreakMode,
    TokenBlocks,
    TokenStream,
    find_split,
)
from metaseq_plugin.data.empty_batch import empty_batch
from metaseq_plugin.models.opt import OPTLanguageModel
from tests.fairseq_runs import EOS, write_data
from tests.opt_models import TINY, decoder, dictionary

TASK: Any = SimpleNamespace(target_dictionary=dictionary())


@pytest.mark.parametrize(
    "criterion",
    [
        CrossEntropyCriterion(TASK, False),
        ChunkedCrossEntropyCriterion(TASK, False, 0),
        ChunkedCrossEntropyCriterion(TASK, True, 0),  # --sentence-avg
    ],
    ids=["fairseq's", "chunked", "by sentences"],
)
def test_it_adds_nothing(criterion: Any) -> None:
    model = OPTLanguageModel(decoder(**TINY))
    loss, sample_size, log = criterion(model, empty_batch(8))
    loss.backward()
    assert (loss.item(), int(sample_size), log["ntokens"]) == (0, 0, 0)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_binarised_data_give_it_where_fairseq_asks_for_no_blocks(tmp_path: Path) -> None:
    data = write_data(tmp_path, documents=5, longest=20)
    blocks = TokenBlocks(
        TokenStream(find_split(str(data), "train", False)), 16, SampleBreakMode.none, EOS
    )
    batches = BlockBatches(
        blocks, blocks.sizes, dictionary(), dictionary(), add_eos_for_other_targets=False,
        shuffle=False, targets=["future"],
    )  # fmt: skip
    real, empty = batches.collater([batches[0]]), batches.collater([])
    assert real["nsentences"] == 1
    assert empty["target"].equal(empty_batch(16)["target"])
    assert empty.keys() == real.keys()
    assert empty["net_input"].keys() == real["net_input"].keys()
