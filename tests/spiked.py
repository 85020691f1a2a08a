"""Runs that spike: data that can be learnt, and what goes wrong in them, planted in every rank alike.

data = write_counting(tmp_path / "data")
train(data, run, …, prepare=poisoned(update=45))
"""

from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import torch

from tests.fairseq_runs import FIRST_SYMBOL, write_dictionary, write_split

VOCAB_SIZE = 40
NUM_SYMBOLS = VOCAB_SIZE - FIRST_SYMBOL
# 30 documents of counting numbers an epoch are few updates; a window of the least size is full after 41.
QUICK = (
    "--disable-validation", "--num-workers", 0, "--spike-window", 32, "--save-interval-updates", 10,
    "--no-epoch-checkpoints",
)  # fmt: skip
Prepare = Callable[..., None]


def write_counting(folder: Path, documents: int = 200, seed: int = 0, noise: float = 0.1) -> Path:
    """A data folder of documents that count up in steps of 1, 2 or 3, a part of their tokens at random."""
    write_dictionary(folder, VOCAB_SIZE)
    random = np.random.default_rng(seed)
    for split, count in (("train", documents), ("valid", max(2, documents // 10))):
        written = []
        for length in random.integers(5, 40, count):
            numbers = random.integers(NUM_SYMBOLS) + np.arange(length) * random.integers(1, 4)
            is_noise = random.random(length) < noise
            numbers = np.where(is_noise, random.integers(0, NUM_SYMBOLS, length), numbers)
            written.append(numbers % NUM_SYMBOLS + FIRST_SYMBOL)
        write_split(folder, split, written)
    return folder


def ids_of(samples: list[Any]) -> frozenset[int]:
    return frozenset(number for sample in samples for number in sample["id"].tolist())


def at_update(change: Callable[[Any, Any], None], *updates: int) -> Prepare:
    """For ``train``: ``change(trainer, samples)`` before each of ``updates``, until the run goes back."""

    def prepare(rank: int = 0) -> None:
        from fairseq.trainer import Trainer

        train_step, latest, is_over = Trainer.train_step, 0, False

        def step(trainer: Any, samples: Any, raise_oom: bool = False) -> Any:
            nonlocal latest, is_over
            update = trainer.get_num_updates() + 1
            is_over, latest = is_over or update <= latest, update
            if update in updates and not is_over:
                change(trainer, samples)
            return train_step(trainer, samples, raise_oom)

        Trainer.train_step = step

    return prepare


def poisoned(words: set[int]) -> Prepare:
    """For ``train``: the blocks of these numbers are of random tokens whenever they are read."""

    def prepare(rank: int = 0) -> None:
        from fairseq.trainer import Trainer

        train_step = Trainer.train_step

        def step(trainer: Any, samples: Any, raise_oom: bool = False) -> Any:
            for sample in samples:
                if sample and words & set(sample["id"].tolist()):
                    generator = torch.Generator().manual_seed(0)
                    shape = sample["target"].shape
                    noise = torch.randint(FIRST_SYMBOL, VOCAB_SIZE, shape, generator=generator)
                    sample["target"] = noise
            return train_step(trainer, samples, raise_oom)

        Trainer.train_step = step

    return prepare


def both(*prepared: Optional[Prepare]) -> Prepare:
    """One after the other."""

    def prepare(rank: int = 0) -> None:
        for one in prepared:
            if one is not None:
                one(rank)

    return prepare
