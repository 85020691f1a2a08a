"""A model whatever its format: its settings, and its tensors, their shapes and their data type.

Every reader completes the settings (``complete_config``), brings the tensors under our names and holds them
against the model that the settings describe (``expected_shapes``, ``check_tensors``, ``check_tied``); whoever
makes one has it looked through (``finite``), and takes it in the data type asked for (``in_dtype``).
"""

from dataclasses import fields
from functools import partial
from itertools import groupby
from typing import Any, Dict, Mapping, Optional, Set, Tuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.fit import check_finite, largest
from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.models.opt import OPTConfig, OPTDecoder, check_config
from metaseq_plugin.sizes import fill_size
from metaseq_plugin.storage.lazy import Lazy, Tensors
from metaseq_plugin.tokenizers.dictionary import numbered_dictionary

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
READABLE = (*DTYPES.values(), torch.float64)
EMBEDDING = "decoder.embed_tokens.weight"
# A longer list hides the first entries, which tell most.
MAX_NAMED = 5
# The settings that a model's tensors grow with; the largest OPT has 50,272 tokens and a dimension of 49,152.
SIZE_SETTINGS = (
    "decoder_layers", "decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_word_embed_dim",
    "decoder_max_positions",
)  # fmt: skip
MAX_SIZE = 2**24
LAYERS, FIRST_LAYER = "layers.", "layers.0."


def complete_config(settings: Mapping[str, Any]) -> Any:
    """``OPTConfig`` as fairseq hands it to the model; what ``settings`` leaves out is its arch's.

    Raises:
        UserError: settings that do not go together.
    """
    known = {f.name for f in fields(OPTConfig)} & settings.keys()
    cfg = OmegaConf.merge(OmegaConf.structured(OPTConfig), {name: settings[name] for name in known})
    fill_size(cfg, cfg._name or "opt")
    check_config(cfg)
    return cfg


def check_sizes(
    cfg: Any,
    vocab_size: int,
    found: Mapping[str, Tensor],
    source: str,
    spelled: Optional[Mapping[str, str]] = None,
) -> None:
    """Refuse settings of another magnitude than the tensors, from which nothing may be built.

    No layer is without a tensor and no dimension larger than that of one; ``check_tensors`` then says exactly
    what differs.

    Args:
        found: the model's tensors.
        spelled: what ``source`` calls our settings, where it has other names.
    """
    longest = max((max(t.shape, default=1) for t in found.values() if t.numel()), default=1)
    most = min(MAX_SIZE, max(longest, len(found)))
    names = spelled or {}
    sizes = {name: cfg[name] for name in SIZE_SETTINGS if cfg[name] is not None}
    problems = [
        f"`{names.get(name, name)}` must be of the tensors' size, but is {size:,} where none is above "
        f"{most:,}"
        for name, size in {**sizes, "vocab_size": vocab_size}.items()
        if size > most
    ]
    if problems:
        raise UserError(
            f"In {source}: {'; '.join(problems)}. Use a complete, unmodified checkpoint."
        )


def expected_shapes(cfg: Any, vocab_size: int) -> Dict[str, torch.Size]:
    """Name and shape of every tensor of the model that ``cfg`` describes, in its order.

    One layer is built, for all of them. ``check_sizes`` comes first where ``cfg`` is a stranger's.
    """
    with torch.device("meta"):
        small = OmegaConf.merge(cfg, {"decoder_layers": 1})
        held = OPTDecoder(small, numbered_dictionary(vocab_size)).state_dict()
    shapes: Dict[str, torch.Size] = {}
    for is_layer, group in groupby(held, key=lambda name: name.startswith(FIRST_LAYER)):
        names = list(group)
        for number in range(cfg.decoder_layers if is_layer else 1):
            for name in names:
                own = LAYERS + str(number) + name[len(FIRST_LAYER) - 1 :] if is_layer else name
                shapes[f"decoder.{own}"] = held[name].shape
    return shapes


def check_tensors(
    found: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: str
) -> None:
    """Refuse tensors that are not exactly the model's, by name.

    Args:
        found: tensors under our names.
        expected: the shape of every tensor of the model.
        source: the file or folder to name in the message.
    """
    problems = [f"lacks `{name}`" for name in sorted(expected.keys() - found.keys())]
    problems += [f"has the unknown `{name}`" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        tensor = found[name]
        if tensor.shape != expected[name]:
            problems.append(
                f"has `{name}` of shape {tuple(tensor.shape)} instead of {tuple(expected[name])}"
            )
        elif kind := strange_kind(tensor):
            problems.append(f"has `{name}` {kind}")
    if problems:
        shown, more = problems[:MAX_NAMED], len(problems) - MAX_NAMED
        raise UserError(
            f"The model must have exactly the tensors of the OPT that its settings describe, but {source} "
            + "; ".join(shown)
            + (f"; and {more} more" if more > 0 else "")
            + ". Use a complete, unmodified checkpoint."
        )


def strange_kind(tensor: Tensor) -> str:
    """What makes ``tensor`` another kind than a model's floating-point numbers; "" if nothing does."""
    if tensor.layout != torch.strided:
        return f"as {tensor.layout} instead of a plain tensor"
    if tensor.dtype not in READABLE:
        return f"as {tensor.dtype} instead of floating point"
    if tensor.untyped_storage().nbytes() < tensor.nbytes:
        return "with fewer values than its shape has room for"  # one value, shown many times
    return ""


def check_kind(name: str, tensor: Tensor, source: str) -> None:
    """Refuse a tensor, a twin too, that is not plain numbers, before anything is computed with it."""
    kind = "without values" if tensor.is_meta else strange_kind(tensor)
    if kind:
        raise UserError(
            f"The model must hold plain tensors, but {source} has `{name}` {kind}. "
            "Use a complete, unmodified checkpoint."
        )


def check_tied(output_name: str, output: Tensor, embedding: Tensor, source: str) -> None:
    """Refuse an output projection, which some files hold too, that is not the token embedding."""
    check_kind(output_name, output, source)
    check_kind(EMBEDDING, embedding, source)
    if output.shape != embedding.shape or not torch.equal(output, embedding):
        check_finite({EMBEDDING: embedding}, source)  # NaN equals nothing
        raise UserError(
            f"`{output_name}` must equal the token embedding, but in {source} it does not. "
            "OPT ties them; a model with its own output projection cannot be read."
        )


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors together."""
    return sum(t.nbytes for t in tensors.values())


def count_parameters(tensors: Mapping[str, Tensor]) -> Tuple[int, str]:
    """Parameters of the model, and their data types in words."""
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})
    return sum(t.numel() for t in tensors.values()), ", ".join(dtypes)


def widest_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The data type that holds every tensor's values."""
    return max((t.dtype for t in tensors.values()), key=lambda dtype: dtype.itemsize)


def finite(tensors: Tensors, source: str) -> Tensors:
    """The same tensors, each looked through the first time that it is made, and each piece of one.

    Args:
        source: the file or folder to name where one holds NaN or infinity, which is a UserError.
    """
    seen: Set[str] = set()

    def check(name: str, tensor: Tensor) -> Tensor:
        check_kind(name, tensor, source)
        check_finite({name: tensor}, source)
        return tensor

    def make(name: str) -> Tensor:
        tensor = tensors[name]
        if name not in seen:
            check(name, tensor)
            seen.add(name)
        return tensor

    def cut(name: str, piece: Piece) -> Tensor:
        return check(name, tensors.piece(name, piece))

    return Tensors(
        {
            name: Lazy(held, partial(make, name), partial(cut, name))
            for name, held in tensors.twins.items()
        }
    )


def in_dtype(tensors: Tensors, dtype: Optional[torch.dtype]) -> Tensors:
    """The same tensors, which are ``finite``, in ``dtype``; None keeps each one's own."""
    if dtype is None:
        return tensors
    makers = {name: partial(_cast, tensors, name, dtype) for name in tensors}
    return Tensors(
        {name: Lazy(held.to(dtype), makers[name]) for name, held in tensors.twins.items()}
    )


def _cast(tensors: Tensors, name: str, dtype: torch.dtype) -> Tensor:
    tensor = tensors[name]
    converted = tensor.to(dtype)
    check_held(name, tensor, converted, "--dtype")
    return converted


def check_held(name: str, tensor: Tensor, converted: Tensor, option: str) -> None:
    """Refuse a data type in which a finite weight becomes infinite.

    Args:
        converted: ``tensor`` in another data type.
        option: how the user spells what asks for it.
    """
    dtype = converted.dtype
    if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max and largest(converted) == torch.inf:
        raise UserError(
            f"`{option}` must hold every weight, but `{name}` reaches {largest(tensor):g} and {dtype} "
            f"only {torch.finfo(dtype).max:g}. Set {option} bfloat16 or float32."
        )
