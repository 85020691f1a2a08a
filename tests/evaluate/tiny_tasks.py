"""A tiny model in every form that lm_eval can ask, and a task of each kind on files beside it."""

import json
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch

from metaseq_plugin.generation.decoding import pad_right
from metaseq_plugin.hub import OPT
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.tokenizers.open import from_folder
from tests.formats.folders import run_convert
from tests.opt_models import PAD, decoder
from tests.serve.live import write_model
from tests.serve.tiny import SIZES, TEXTS, tiny_opt

# No perplexities of words, which lm_eval prints with four decimals: of noise they are in the ten thousands, more
# digits than fp32 has. No text stands in two
# tasks, split at different places: lm_eval 0.4.13's class hf, which looks such texts up in one pass, then takes the
# logits of the wrong place (``get_cache``).
TASKS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "tiny_choice": (
        [
            {"text": "the cat sat on", "ends": ["the mat", "a dog", "dinner. Why?", "naïve café"]},
            {"text": "a dog ate the cat's ", "ends": ["dinner", "mat", " sat"]},
            {"text": "naïve", "ends": ["café", "☕", "the"]},
            {"text": "Why?", "ends": ["a", "b"]},
        ],
        """
output_type: multiple_choice
doc_to_text: "Question: {{text}}\\nAnswer:"
doc_to_choice: "{{ends}}"
doc_to_target: 0
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    ),
    "tiny_pairs": (
        [
            {"pair": ["the cat sat on a mat", "the dog sat on a mat"]},
            {"pair": ["a dog ate the cat's dinner", "a dog ate the mat's dinner"]},
            {"pair": ["naïve ☕ café", "naïve ☕ cat"]},
        ],
        """
output_type: multiple_choice
doc_to_text: ""
target_delimiter: ""
doc_to_choice: "{{pair}}"
doc_to_target: 0
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    ),
    "tiny_last_word": (
        [
            {"text": text}
            for text in ("a cat sat on the mat", "the dog ate the cat's dinner.", "a naïve café ☕")
        ],
        """
output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list:
  - metric: acc
""",
    ),
    "tiny_texts": (
        [{"text": text} for text in ("the cat sat on the mat\n", "naïve café ☕ the cat", "x")],
        """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: byte_perplexity
  - metric: bits_per_byte
""",
    ),
    "tiny_long_text": (
        [{"text": "the cat sat on the mat. a dog ate it; Why? " * 12}],
        """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: byte_perplexity
  - metric: bits_per_byte
""",
    ),
    "tiny_writing": (
        [{"text": text} for text in ("the cat", "a dog ate the", "naïve", "Why? ")],
        """
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "a"
generation_kwargs:
  until: [" t", "e"]
  max_gen_toks: 20
metric_list:
  - metric: exact_match
""",
    ),
}

# LAMBADA and WikiText as they are, for a model that has learnt the texts.
LEARNT: dict[str, tuple[list[dict[str, Any]], str]] = {
    "tiny_lambada": (
        [{"text": text.strip()} for text in dict.fromkeys(TEXTS)],
        """
output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list:
  - metric: perplexity
  - metric: acc
""",
    ),
    "tiny_wikitext": (
        [{"text": text} for text in dict.fromkeys(TEXTS)],
        """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
""",
    ),
}


class Forms(NamedTuple):
    """The folders of one model."""

    opt: OPT
    ours: Path
    hf: Path


def trained_opt(folder: Path, updates: int = 60) -> OPT:
    """The model of ``tiny_opt``, taught its texts: some continuations are likely, some are greedy."""
    tiny_opt(folder)
    tokenizer = from_folder(folder)
    built = decoder(len(tokenizer), std=0.05, **SIZES)
    rows = [[2, *tokenizer.encode(text).tolist()] for text in dict.fromkeys(TEXTS)]
    batch = pad_right(rows, PAD, torch.device("cpu"))
    optimizer = torch.optim.Adam(built.parameters(), lr=3e-3)
    for _ in range(updates):
        logits = built(batch[:, :-1])[0].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return OPT(OPTLanguageModel(built), tokenizer.dictionary, tokenizer)


def write_forms(folder: Path, make: Callable[[Path], OPT] = tiny_opt) -> Forms:
    for name in ("tokenizer", "twin"):
        (folder / name).mkdir()
    opt = make(folder / "tokenizer")
    write_model(opt, folder / "twin")
    run_convert(folder / "twin", folder / "ours", "--to", "fairseq")
    run_convert(folder / "ours", folder / "hf", "--to", "hf")
    return Forms(opt, folder / "ours", folder / "hf")


def write_tasks(folder: Path) -> Path:
    """A folder for ``--include_path``."""
    folder.mkdir()
    for name, (documents, rest) in {**TASKS, **LEARNT}.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
        places = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        head = f"task: {name}\ndataset_path: json\ntest_split: test\ndataset_kwargs: {json.dumps(places)}"
        (folder / f"{name}.yaml").write_text(head + rest)
    return folder
