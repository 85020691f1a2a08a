"""Pairs of a source and a target: the model reads both and is asked for the target and its end."""

import json
from pathlib import Path

import numpy as np
import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.token_blocks import SampleBreakMode
from metaseq_plugin.data.streaming.corpora import open_corpora
from metaseq_plugin.data.streaming.mixing import Mixing
from metaseq_plugin.data.streaming.split import Settings, Split
from metaseq_plugin.data.streaming.tokens import PairReader, Workers
from metaseq_plugin.tokenizers.base import EOS, PAD
from tests.data.streaming.worlds import FIRST_WORD, TOKENIZER, epochs_of, words

BLOCK_SIZE = 16
Pair = tuple[list[int], list[int]]  # words of the source and of the target


def write_pairs(folder: Path, count: int = 60, longest: int = 12) -> list[Pair]:
    random, first, pairs, lines = np.random.default_rng(5), 0, [], []
    for _ in range(count):
        source, target = random.integers([0, 1], longest, 2).tolist()
        pairs.append(
            (list(range(first, first + source)),
             list(range(first + source, first + source + target)))
        )  # fmt: skip
        record = {"src": words(first, source) + "  ", "tgt": words(first + source, target) + " \n"}
        lines.append(json.dumps(record) + "\n")
        first += source + target
    path = folder / "train" / "00" / "pairs.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(lines))
    return pairs


def open_pairs(folder: Path, mode: SampleBreakMode, skips_bad: bool = False) -> Split:
    corpora = open_corpora(str(folder), "train", None, skips_bad)
    settings = Settings(BLOCK_SIZE, mode, 4, 1, Mixing())
    return Split(corpora, settings, PairReader(TOKENIZER, skips_bad))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("mode", list(SampleBreakMode))
def test_every_target_is_asked_for_once_and_no_source_is(
    tmp_path: Path, mode: SampleBreakMode, num_workers: int
) -> None:
    pairs = write_pairs(tmp_path)
    split = open_pairs(tmp_path, mode)
    read: list[tuple[int, tuple[int, ...]]] = []
    asked, num_asked = [], 0
    for batch in epochs_of(split, Workers(split.reader, num_workers)).next_epoch_itr():
        target, source = batch["target"], batch["net_input"]["src_tokens"]
        assert batch["ntokens"] == int(target.ne(PAD).sum())
        num_asked += batch["ntokens"]
        for number, row, size, wanted in zip(
            batch["id"].tolist(), source, batch["net_input"]["src_lengths"].tolist(), target
        ):
            read.append((number, tuple(row[:size].tolist())))
            asked += [(int(a), int(b)) for a, b in zip(row, wanted) if b != PAD]
    expected = []
    for source_words, target_words in pairs:
        known = [EOS, *(w + FIRST_WORD for w in source_words + target_words)]
        wanted = [*(w + FIRST_WORD for w in target_words), EOS]
        expected += list(zip(known[len(source_words) :], wanted))
    assert sorted(asked) == sorted(expected)
    assert num_asked == sum(len(target) + 1 for _, target in pairs)
    # The model has read every token but the last of the stream, and </s> before the first.
    tokens = [token for _, row in sorted(read) for token in row]
    assert len(tokens) == sum(len(source) + len(target) + 1 for source, target in pairs)
    assert min(tokens) >= 0


def test_one_pair_a_block_is_the_pair(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, longest=7)
    split = open_pairs(tmp_path, SampleBreakMode.eos)
    rows = {}
    for batch in epochs_of(split, Workers(split.reader, 0)).next_epoch_itr():
        for row, wanted in zip(batch["net_input"]["src_tokens"], batch["target"]):
            words_read = tuple(t - FIRST_WORD for t in row.tolist() if t not in (PAD, EOS))
            rows[words_read] = wanted.tolist()
    for source, target in pairs:
        wanted = rows[tuple(source + target)]
        pad, asked = [PAD] * len(source), [w + FIRST_WORD for w in target]
        assert wanted[: len(source) + len(target) + 1] == [*pad, *asked, EOS]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ('{"src": "1 2"}', 'has no "tgt" (it has src)'),
        ('{"src": 3, "tgt": "1"}', 'its "src" is a int'),
        ('{"text": "1"}', 'has no "src"'),
    ],
)
def test_bad_pairs(tmp_path: Path, record: str, sentence: str) -> None:
    write_pairs(tmp_path, count=3, longest=7)
    with (tmp_path / "train" / "00" / "pairs.jsonl").open("a") as stream:
        stream.write(record + "\n")
    split = open_pairs(tmp_path, SampleBreakMode.eos)
    with pytest.raises(UserError, match="--skip-bad-documents") as caught:
        list(epochs_of(split, Workers(split.reader, 0)).next_epoch_itr())
    assert sentence in str(caught.value)
    assert 'a JSON object with strings "src" and "tgt"' in str(caught.value)

    split = open_pairs(tmp_path, SampleBreakMode.eos, skips_bad=True)
    batches = list(epochs_of(split, Workers(split.reader, 0)).next_epoch_itr())
    assert sum(batch["nsentences"] for batch in batches) == 3


def test_plain_text_has_no_pairs(tmp_path: Path) -> None:
    (tmp_path / "train" / "00").mkdir(parents=True)
    (tmp_path / "train" / "00" / "a.txt").write_text("1 2 3\n")
    split = open_pairs(tmp_path, SampleBreakMode.eos)
    with pytest.raises(UserError, match="Set JSONL files"):
        list(epochs_of(split, Workers(split.reader, 0)).next_epoch_itr())
