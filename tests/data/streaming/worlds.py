"""Small corpora and a tokenizer of a few lines, to test the stream without fairseq or real text."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from metaseq_plugin.data.binarized.token_blocks import SampleBreakMode
from metaseq_plugin.data.skips import Skips
from metaseq_plugin.data.streaming.corpora import open_corpora
from metaseq_plugin.data.streaming.epochs import StreamingEpochs
from metaseq_plugin.data.streaming.mixing import Mixing
from metaseq_plugin.data.streaming.rounds import Share
from metaseq_plugin.data.streaming.split import Settings, Split
from metaseq_plugin.data.streaming.tokens import Reader, Workers
from metaseq_plugin.tokenizers.base import PAD, Tokenizer
from metaseq_plugin.tokenizers.dictionary import SPECIAL_SYMBOLS

AS_THEY_ARE = Mixing()
NUM_WORDS = 50_000
FIRST_WORD = len(SPECIAL_SYMBOLS)


class WordTokenizer(Tokenizer):
    """ "3 14 15" is the words 3, 14 and 15, each a token."""

    bpe_name = "words"
    file_names = ()

    def __init__(self) -> None:
        names = [f"w{number}" for number in range(NUM_WORDS)]
        super().__init__(names, [None] * NUM_WORDS)

    def encode(self, text: str) -> np.ndarray:
        return np.array([int(word) + FIRST_WORD for word in text.split()], dtype=np.int64)

    def files(self) -> Dict[str, bytes]:
        return {}


TOKENIZER = WordTokenizer()


def words(first: int, count: int) -> str:
    """``count`` words from ``first`` on."""
    return " ".join(str((first + number) % NUM_WORDS) for number in range(count))


def write_jsonl(path: Path, texts: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def write_world(
    folder: Path,
    sizes: Dict[str, int],
    longest: int = 30,
    num_shards: int = 2,
    seed: int = 0,
    split: str = "train",
) -> List[List[int]]:
    """Corpora of ``sizes`` documents under ``folder``/``split``; every word of them is another.

    Returns the words of each document.
    """
    random, first, documents = np.random.default_rng(seed), 0, []
    for name, size in sizes.items():
        lengths = random.integers(1, longest + 1, size)
        texts = []
        for length in map(int, lengths):
            texts.append(words(first, length))
            documents.append(list(range(first, first + length)))
            first += length
        assert first < NUM_WORDS
        for shard in range(num_shards):
            part = texts[shard::num_shards]
            write_jsonl(folder / split / f"{shard:02d}" / f"{name}.jsonl", part)
    return documents


def open_split(
    folder: Path,
    break_mode: SampleBreakMode = SampleBreakMode.none,
    mixing: Mixing = AS_THEY_ARE,
    block_size: int = 16,
    window: int = 8,
    seed: int = 1,
    skips_bad: bool = False,
    split: str = "train",
) -> Split:
    corpora = open_corpora(str(folder), split, None, skips_bad)
    settings = Settings(block_size, break_mode, window, seed, mixing)
    return Split(corpora, settings, Reader(TOKENIZER, skips_bad))


def epochs_of(
    split: Split, workers: Workers, ranks: int = 1, rank: int = 0, batch_size: int = 2, **more: Any
) -> StreamingEpochs:
    share = Share(batch_size, ranks, rank, split.settings.block_size)
    return StreamingEpochs(split, share, workers, **more)


Sample = Tuple[int, Tuple[int, ...], Tuple[int, ...]]  # id, source, target, without padding


def samples_of(batch: Dict[str, Any]) -> List[Sample]:
    """The rows of a batch; none of one without targets."""
    if batch["nsentences"] == 0:
        assert batch["ntokens"] == 0
        assert not batch["target"].ne(PAD).any()
        return []
    rows = zip(batch["id"].tolist(), batch["net_input"]["src_tokens"], batch["target"])
    samples = []
    for number, source, target in rows:
        kept = target.ne(PAD)
        assert kept.tolist() == sorted(kept.tolist(), reverse=True)  # padding is on the right
        assert not source[~kept].ne(PAD).any()
        samples.append((number, tuple(source[kept].tolist()), tuple(target[kept].tolist())))
    assert batch["ntokens"] == sum(len(target) for _, _, target in samples)
    assert batch["nsentences"] == len(samples)
    assert batch["net_input"]["src_lengths"].tolist() == [len(t) for _, _, t in samples]
    return samples


class Fleet:
    """The data sides of a run on several ranks, which make updates together."""

    def __init__(
        self,
        split: Split,
        workers: Workers,
        ranks: int,
        update_freq: int,
        state: Optional[str] = None,
        skips: Optional[Dict[int, int]] = None,
        updates: int = 0,
        drops_remainder: bool = False,
        curriculum: int = 0,
    ) -> None:
        self.update_freq, self.updates = update_freq, updates
        self.drops_remainder, self.curriculum = drops_remainder, curriculum
        self.ranks = [
            epochs_of(
                split,
                workers,
                ranks,
                rank,
                skips=Skips(skips or {}),
                updates_done=lambda: self.updates,
            )
            for rank in range(ranks)
        ]
        for rank in self.ranks:
            if state is not None:
                rank.load_state_dict(json.loads(state))
        self.begin()

    def begin(self) -> None:
        """The next epoch, or the rest of the one that was resumed."""
        self.epochs = [
            rank.next_epoch_itr(rank.next_epoch_idx > self.curriculum).grouped(
                self.update_freq, self.drops_remainder
            )
            for rank in self.ranks
        ]

    def update(self) -> List[Sample]:
        """The samples of the next update in the order that one rank would see them."""
        if not self.epochs[0].has_next():
            self.begin()
        dealt = [next(epoch) for epoch in self.epochs]
        self.updates += 1
        assert len({len(batches) for batches in dealt}) == 1
        return [
            sample for batches in zip(*dealt) for batch in batches for sample in samples_of(batch)
        ]

    def state(self) -> str:
        """As a checkpoint holds it; the same on every rank."""
        states = {json.dumps(rank.state_dict(), sort_keys=True) for rank in self.ranks}
        assert len(states) == 1
        return states.pop()
