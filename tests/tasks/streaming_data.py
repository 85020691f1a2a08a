"""A data folder of raw text for the streaming task: two corpora, two validation splits, a tokenizer."""

from pathlib import Path
from typing import Any

from metaseq_plugin.tokenizers.train import train_byte_level_bpe
from tests.data.streaming.worlds import write_jsonl
from tests.data.trained import real_texts

VOCAB_SIZE = 400
STREAMING: tuple[Any, ...] = ("--task", "opt_streaming_language_modeling",
                              "--valid-subset", "valid/code,valid/prose")  # fmt: skip


def write_streaming_data(folder: Path, documents: int = 60) -> Path:
    """``documents`` paragraphs of code and half as many of another kind, in two shards."""
    folder.mkdir(parents=True)
    train_byte_level_bpe(real_texts(), VOCAB_SIZE, folder)
    texts = [text for text in "\n".join(real_texts()).split("\n\n") if 40 < len(text) < 400]
    assert len(texts) > 2 * documents
    for shard in range(2):
        here = folder / "train" / f"{shard:02d}"
        write_jsonl(here / "code.jsonl", texts[shard:documents:2])
        prose = texts[documents + shard : documents + documents // 2 : 2]
        (here / "prose.txt").write_text("\n\n\n".join(" ".join(t.split()) for t in prose))
    for number, name in enumerate(("code", "prose")):
        valid = texts[-10 * number - 10 : len(texts) - 10 * number]
        write_jsonl(folder / "valid" / name / "00" / f"{name}.jsonl", valid)
    return folder
