"""A random model of a few layers with a byte-level BPE, and what its answers are held against."""

from pathlib import Path
from typing import Any, Sequence

from starlette.testclient import TestClient

from metaseq_plugin.hub import OPT
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.tokenizers.open import from_folder
from metaseq_plugin.tokenizers.train import train_byte_level_bpe
from tests.opt_models import TINY, decoder

NAME = "tiny/opt"
POSITIONS = 96
SIZES: dict[str, Any] = {**TINY, "decoder_max_positions": POSITIONS}
TEXTS = ["the cat sat on the mat\n", "a dog ate the cat's dinner. Why?\n", "naïve café ☕\n"] * 8


def tiny_opt(folder: Path, texts: Sequence[str] = TEXTS) -> OPT:
    """A model whose text is noise, the same each time at temperature 0."""
    train_byte_level_bpe(texts, 300, folder)
    tokenizer = from_folder(folder)
    model = OPTLanguageModel(decoder(len(tokenizer), std=0.2, **SIZES))
    return OPT(model, tokenizer.dictionary, tokenizer)


def ask(client: TestClient, path: str = "/v1/completions", **fields: Any) -> dict[str, Any]:
    """The answer to a request that must succeed."""
    answer = client.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def greedy(opt: OPT, prompt: str | Sequence[int], tokens: int, **settings: Any) -> Any:
    """What the hub writes."""
    return opt.generate([prompt], tokens, temperature=0.0, **settings)[0][0]
