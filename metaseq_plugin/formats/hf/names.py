"""Names of OPT's tensors here and in Hugging Face's files, and the check that a set is complete.

Both sides hold the same tensors in the same layout, so conversion renames and nothing else:

    decoder.…                  model.decoder.…
    decoder.project_in_dim.…   model.decoder.project_in.…
    decoder.project_out_dim.…  model.decoder.project_out.…
    decoder.layer_norm.…       model.decoder.final_layer_norm.…

Hugging Face's older files leave out the leading ``model.``; files written from a whole
``OPTForCausalLM`` may hold the tied output projection a second time as ``lm_head.weight``.
"""

from typing import Dict, Iterable, List, Mapping, Tuple

import torch
from torch import Tensor

from metaseq_plugin.compat.errors import UserError

EMBEDDING = "decoder.embed_tokens.weight"
HF_TIED_OUTPUT = "lm_head.weight"
HF_PREFIX = "model."

# Where more than the prefix differs: the beginning of our name, and of Hugging Face's after "model.".
RENAMED = {
    "decoder.project_in_dim.": "decoder.project_in.",
    "decoder.project_out_dim.": "decoder.project_out.",
    "decoder.layer_norm.": "decoder.final_layer_norm.",
}
# A longer list hides the first entries, which tell most.
MAX_NAMED = 5


def to_hf(name: str) -> str:
    """Hugging Face's name of our tensor ``name``."""
    for ours, theirs in RENAMED.items():
        if name.startswith(ours):
            return HF_PREFIX + theirs + name[len(ours) :]
    return HF_PREFIX + name


def to_fairseq(name: str) -> str:
    """Our name of Hugging Face's tensor ``name``, with or without the leading ``model.``."""
    name = name.removeprefix(HF_PREFIX)
    for ours, theirs in RENAMED.items():
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def rename_to_fairseq(tensors: Mapping[str, Tensor], source: str) -> Dict[str, Tensor]:
    """Hugging Face's tensors under our names, without the second copy of the tied embedding.

    Raises:
        UserError: two names for one tensor, or an output projection that is not the embedding.
    """
    renamed: Dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == HF_TIED_OUTPUT:
            continue
        ours = to_fairseq(name)
        if ours in renamed:
            raise UserError(
                f"SRC must hold each tensor once, but {source} holds `{name}` under two names. "
                "Export the model again with save_pretrained()."
            )
        renamed[ours] = tensor
    if HF_TIED_OUTPUT in tensors and EMBEDDING in renamed:
        output, embedding = tensors[HF_TIED_OUTPUT], renamed[EMBEDDING]
        if output.shape != embedding.shape or not torch.equal(output, embedding):
            raise UserError(
                f"`{HF_TIED_OUTPUT}` must equal the token embedding, but in {source} it does not. "
                "OPT ties them; a model with its own output projection cannot be converted."
            )
    return renamed


def check_tensors(
    found: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: str
) -> None:
    """Refuse tensors that are not exactly the model's, by name.

    Args:
        found: tensors under our names.
        expected: the shape of every tensor of the model.
        source: the file or folder to name in the message.
    """
    problems = []
    missing = expected.keys() - found.keys()
    if missing:
        problems.append(f"lacks {_listed(missing)}")
    extra = found.keys() - expected.keys()
    if extra:
        problems.append(f"has the unknown {_listed(extra)}")
    for name in sorted(expected.keys() & found.keys()):
        tensor = found[name]
        if tensor.shape != expected[name]:
            problems.append(
                f"has `{name}` of shape {tuple(tensor.shape)} instead of {tuple(expected[name])}"
            )
        elif not tensor.is_floating_point():
            problems.append(f"has `{name}` as {tensor.dtype} instead of floating point")
    if problems:
        shown, more = problems[:MAX_NAMED], len(problems) - MAX_NAMED
        raise UserError(
            f"SRC must hold exactly the tensors of the OPT that its settings describe, but {source} "
            + "; ".join(shown)
            + (f"; and {more} more" if more > 0 else "")
            + ". Convert from a complete, unmodified checkpoint."
        )


def _listed(names: Iterable[str]) -> str:
    ordered: List[str] = sorted(names)
    shown = ", ".join(f"`{name}`" for name in ordered[:MAX_NAMED])
    more = len(ordered) - MAX_NAMED
    return shown + (f" and {more} more tensors" if more > 0 else "")


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors together."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def count_parameters(tensors: Mapping[str, Tensor]) -> Tuple[int, str]:
    """Parameters of the model, and their data types in words."""
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})
    return sum(t.numel() for t in tensors.values()), ", ".join(dtypes)
