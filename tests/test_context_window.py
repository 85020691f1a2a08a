"""``fairseq-eval-lm --context-window``: a context and a block together are what the model reads."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaseq_plugin.hub import OPT
from tests.fairseq_runs import EOS, Ended, run_fairseq, train, write_data

POSITIONS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``, and ``run`` with a checkpoint of a model that reads 24 tokens."""
    made = tmp_path_factory.mktemp("window")
    ended = train(
        write_data(made / "data", documents=80), made / "run", "--max-update", 20, "--init-std", 0.2,
        "--disable-validation", "--decoder-max-positions", POSITIONS, "--tokens-per-sample", 16,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    return made


def evaluate(folder: Path, log_dir: Path, *options: Any) -> Ended:
    return run_fairseq(
        "eval-lm", folder / "data", "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu",
        "--path", folder / "run" / "checkpoint_last.pt", "--gen-subset", "valid", "--no-progress-bar", *options,
        log_dir=log_dir,
    )  # fmt: skip


@torch.no_grad()
def loss_by_hand(folder: Path, window: int, block: int) -> float:
    """In bits a token: each block of the split is scored after the ``window`` tokens before it."""
    opt = OPT.from_pretrained(folder / "run")
    tokens = np.fromfile(folder / "data" / "valid.bin", dtype=np.uint16)
    documents = torch.from_numpy(tokens.astype(np.int64))
    source = torch.cat([torch.tensor([EOS]), documents[:-1]])
    scores = []
    for start in range(0, len(documents), block):
        first, end = max(0, start - window), min(start + block, len(documents))
        log_probs = opt.model.decoder(source[None, first:end])[0][0].log_softmax(-1)
        targets = documents[start:end]
        scores.append(log_probs[start - first :].gather(1, targets[:, None])[:, 0])
    assert len(scores) > 5
    return -float(torch.cat(scores).mean()) / math.log(2)


@pytest.mark.parametrize("options", [("--batch-size", 1), ("--batch-size", 3, "--num-workers", 3)])
@pytest.mark.parametrize(
    ("window", "tokens", "block"),
    [
        (8, (), 16),  # the default of 2048 tokens is cut to what the model reads
        (23, (), 1),
        (4, ("--tokens-per-sample", 14), 10),
        (0, (), 24),
    ],
)
def test_loss_is_that_of_blocks_after_their_contexts(
    folder: Path, tmp_path: Path, options: tuple, window: int, tokens: tuple, block: int
) -> None:
    ended = evaluate(folder, tmp_path, "--context-window", window, *tokens, *options)
    assert ended.status == 0, ended.output
    (loss,) = re.findall(r"Loss \(base 2\): ([0-9.]+)", ended.output)
    assert float(loss) == pytest.approx(loss_by_hand(folder, window, block), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--context-window", POSITIONS), r"`--context-window` must be below `--decoder-max-positions` \(24\), but is 24. Set 12"),
        (("--context-window", 8, "--num-shards", 2), "`--context-window` must be 0 where 2 shards or ranks"),
        (("--context-window", 8, "--tokens-per-sample", 8), "`--tokens-per-sample` must .* but is 0.* must be above --context-window"),
    ],
)  # fmt: skip
def test_refused(folder: Path, tmp_path: Path, options: tuple, sentence: str) -> None:
    ended = evaluate(folder, tmp_path, "--batch-size", 2, *options)
    assert ended.status == 2, ended.output
    assert re.match(f"fairseq-eval-lm: error: {sentence}", ended.last_line), ended.last_line
