"""The door of ``torch.hub``: a model of a checkout, from wherever the caller stands.

opt = torch.hub.load("path/to/metaseq-plugin", "opt", "runs/quickstart", source="local")
opt.generate(["import os"], max_new_tokens=40)[0][0].text
"""

from typing import Any

dependencies = ["torch", "fairseq", "safetensors", "tokenizers", "tiktoken", "sentencepiece"]


def opt(path: str, **options: Any) -> Any:
    """``OPT.from_pretrained(path, **options)``: a run folder, a checkpoint, Hugging Face's or metaseq's files."""
    from metaseq_plugin.hub import OPT  # not above: torch.hub looks for ``dependencies`` first

    return OPT.from_pretrained(path, **options)
