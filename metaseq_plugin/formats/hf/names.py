"""Names of OPT's tensors here and in Hugging Face's files.

Both sides hold the same tensors in the same layout, so conversion renames and nothing else:

    decoder.…                  model.decoder.…
    decoder.project_in_dim.…   model.decoder.project_in.…
    decoder.project_out_dim.…  model.decoder.project_out.…
    decoder.layer_norm.…       model.decoder.final_layer_norm.…

Hugging Face's older files leave out the leading ``model.``; files written from a whole
``OPTForCausalLM`` may hold the tied output projection a second time as ``lm_head.weight``.
"""

from typing import Dict, Mapping

from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.tensors import EMBEDDING, check_tied

HF_TIED_OUTPUT = "lm_head.weight"
HF_PREFIX = "model."

# Where more than the prefix differs: the beginning of our name, and of Hugging Face's after "model.".
RENAMED = {
    "decoder.project_in_dim.": "decoder.project_in.",
    "decoder.project_out_dim.": "decoder.project_out.",
    "decoder.layer_norm.": "decoder.final_layer_norm.",
}


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
                f"The model must hold each tensor once, but {source} holds `{name}` under two names. "
                "Export the model again with save_pretrained()."
            )
        renamed[ours] = tensor
    if HF_TIED_OUTPUT in tensors and EMBEDDING in renamed:
        check_tied(HF_TIED_OUTPUT, tensors[HF_TIED_OUTPUT], renamed[EMBEDDING], source)
    return renamed
