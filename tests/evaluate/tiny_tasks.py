"""A tiny model in every form that lm_eval can ask, and a task of each kind on files beside it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from metaseq_plugin.hub import OPT
from tests.formats.folders import run_convert
from tests.serve.live import write_model
from tests.serve.tiny import tiny_opt

# lm_eval's word perplexity of noise is in the ten thousands: more digits than fp32 has.
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


class Forms(NamedTuple):
    """The folders of one model."""

    opt: OPT
    ours: Path
    hf: Path


def write_forms(folder: Path) -> Forms:
    for name in ("tokenizer", "twin"):
        (folder / name).mkdir()
    opt = tiny_opt(folder / "tokenizer")
    write_model(opt, folder / "twin")
    run_convert(folder / "twin", folder / "ours", "--to", "fairseq")
    run_convert(folder / "ours", folder / "hf", "--to", "hf")
    return Forms(opt, folder / "ours", folder / "hf")


def write_tasks(folder: Path) -> Path:
    """A folder for ``--include_path``."""
    folder.mkdir()
    for name, (documents, rest) in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
        places = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        head = f"task: {name}\ndataset_path: json\ntest_split: test\ndataset_kwargs: {json.dumps(places)}"
        (folder / f"{name}.yaml").write_text(head + rest)
    return folder
