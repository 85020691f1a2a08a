"""The settings that a checkpoint holds are data: nothing in them is run, looked up or built before it is checked.

fairseq builds what a file's ``cfg`` names, and takes more of it at its word than a stranger's file deserves:
(1) omegaconf resolves ``${oc.env:HOME}`` in any text of it: refused, for a file that is saved holds none;
(2) some architectures ``eval`` a text of their options: these must be numbers, texts and lists of them
    (``check_evaluated``; ``EVALUATED`` names them), for whichever model;
(3) of a model of the host's, every group must be a registered name with values of its dataclass's types
    (``typed``). What no field is named after is left out, as fairseq would refuse it.
"""

import ast
import math
from argparse import Namespace
from dataclasses import fields, is_dataclass
from typing import Any, Dict, Iterator, Mapping, Tuple

from omegaconf import OmegaConf
from omegaconf.base import Node
from omegaconf.errors import OmegaConfBaseException

from metaseq_plugin.compat.errors import UserError

# The options that fairseq 0.12.2 evaluates as Python: by itself or in ``utils.eval_str_list`` and its like.
EVALUATED = frozenset((
    "adafactor_eps", "adam_betas", "adamax_betas", "adaptive_input_cutoff", "adaptive_softmax_cutoff",
    "character_filters", "conv_aggregator_layers", "conv_dec_config", "conv_enc_config",
    "conv_feature_layers", "decoder_attention", "decoder_layers", "decoder_zero_init", "downsample",
    "encoder_attention", "encoder_layers", "gated_attention", "lamb_betas", "left_pad_source",
    "left_pad_target", "model_overrides", "pipeline_balance", "pipeline_decoder_balance",
    "pipeline_decoder_devices", "pipeline_devices", "pipeline_encoder_balance", "pipeline_encoder_devices",
    "pretrained", "project_input", "self_attention", "transformer_context", "transformer_dec_config",
    "transformer_enc_config", "transformer_sampling", "vggblock_enc_config", "wer_args",
    "xformers_att_config",
))  # fmt: skip
# What such a text may be made of: "[(512, 10, 5)] + [(512, 3, 2)] * 4" is one of fairseq's own.
PLAIN_SYNTAX = (
    ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Load, ast.BinOp, ast.UnaryOp,
    ast.Add, ast.Sub, ast.Mult, ast.USub, ast.UAdd,
)  # fmt: skip
MAX_REPEATS = 10_000  # all the factors of such a text together
MAX_TEXT = 10_000
WRONG_TYPE = (OmegaConfBaseException, ValueError, TypeError, AttributeError)  # what a merge raises
AGAIN = "Use another checkpoint, or copy this one again."


def plain(held: Any) -> Any:
    """``held`` as dictionaries, lists and values, from omegaconf's containers and Namespaces too."""
    if isinstance(held, Node):  # its own fields: asking it for a value would resolve that
        content = vars(held).get("_content", vars(held).get("_val"))
        return plain(content)
    if isinstance(held, Namespace):
        held = vars(held)
    if isinstance(held, Mapping):
        return {name: plain(value) for name, value in held.items()}
    if isinstance(held, (list, tuple)):
        return [plain(value) for value in held]
    return held


def texts(settings: Any, name: str = "") -> Iterator[Tuple[str, str]]:
    """(name, text) of every text in plain ``settings``, however deep; a name itself is one, too."""
    if isinstance(settings, str):
        yield name, settings
    elif isinstance(settings, dict):
        for key, value in settings.items():
            if isinstance(key, str):
                yield name, key
                yield from texts(value, key)
    elif isinstance(settings, list):
        for value in settings:
            yield from texts(value, name)


def check_harmless(settings: Any, source: Any) -> None:
    """Refuse plain ``settings`` of whichever model in which something would be run or resolved.

    Raises:
        UserError: naming the setting.
    """
    for name, text in texts(settings):
        if "${" in text:
            raise UserError(
                f"{source} must hold its settings as they are, but `{name}` is {text[:80]!r}, which asks for "
                f"something else. {AGAIN}"
            )
        if name in EVALUATED and text != name and not is_literal(text):
            raise UserError(
                f"{source} must hold only numbers and lists of them at `{name}`, which fairseq runs as Python, "
                f"but holds {text[:80]!r}. Do not load it."
            )


def is_literal(text: str) -> bool:
    """Whether ``text`` as Python is numbers, texts and lists of them, of a size that can be made."""
    try:
        nodes = (
            list(ast.walk(ast.parse(text.strip(), mode="eval"))) if len(text) <= MAX_TEXT else []
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    # What something is repeated by stands there as a number: a sum could be any.
    factors = [
        [abs(side.value) for side in (node.left, node.right)
         if isinstance(side, ast.Constant) and isinstance(side.value, int)]
        for node in nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
    ]  # fmt: skip
    return (
        bool(nodes)
        and all(isinstance(node, PLAIN_SYNTAX) for node in nodes)
        and all(factors)
        and math.prod(max(factor, 1) for of_node in factors for factor in of_node) <= MAX_REPEATS
    )


def model_name(state: Mapping[str, Any]) -> Any:
    """The architecture that fairseq would build of ``state``, whose settings are plain; None if it says none."""
    args = state.get("args")
    if isinstance(args, dict) and args:  # before cfg, as fairseq has it
        return args.get("arch")
    cfg = state.get("cfg")
    model = cfg.get("model") if isinstance(cfg, dict) else None
    return (model.get("_name") or model.get("arch")) if isinstance(model, dict) else None


def typed(settings: Any, source: Any) -> Dict[str, Any]:
    """The plain ``settings`` of a file whose model is the host's, each group as its dataclass says.

    Raises:
        UserError: a group that is none, a name that is not registered, or a value of another type.
    """
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    named: Dict[str, Dict[str, Any]] = {
        name: {**dict.fromkeys(held["registry"]), **held["dataclass_registry"]}
        for name, held in REGISTRIES.items()
    }
    named["task"] = TASK_DATACLASS_REGISTRY
    named["model"] = {
        arch: MODEL_DATACLASS_REGISTRY.get(model)
        for arch, model in ARCH_MODEL_NAME_REGISTRY.items()
    } | MODEL_DATACLASS_REGISTRY
    groups = {field.name: field.type for field in fields(FairseqConfig) if is_dataclass(field.type)}
    if not isinstance(settings, dict):
        raise _refused("cfg", "groups of settings", settings, source)
    found = {}
    for group, held in settings.items():
        if held is None or not (group in groups or group in named):
            found[group] = held
        elif group in groups:
            found[group] = _as(groups[group], held, group, source)
        elif isinstance(held, str):
            _check_name(held, named[group], group, source)
            found[group] = held
        elif not isinstance(held, dict):
            raise _refused(group, "settings by name", held, source)
        elif held.get("_name") is None:  # one that is not chosen
            found[group] = held
        else:
            _check_name(held["_name"], named[group], group, source)
            kind = named[group][held["_name"]]
            found[group] = held if kind is None else _as(kind, held, group, source)
    return found


def _check_name(name: Any, registry: Mapping[str, Any], group: str, source: Any) -> None:
    if not isinstance(name, str) or name not in registry:
        raise UserError(
            f"{source} must name a registered {group}, but names {name!r:.80}. Set --user-dir to the package that "
            "has it, or use another checkpoint."
        )


def _as(kind: Any, held: Any, group: str, source: Any) -> Dict[str, Any]:
    """The values of ``held`` in the types of the dataclass ``kind``; no more, and no defaults."""
    if not isinstance(held, dict):
        raise _refused(group, "settings by name", held, source)
    schema = OmegaConf.structured(kind)
    names = [field.name for field in fields(kind) if field.name in held]
    try:
        return _converted(schema, {name: held[name] for name in names})
    except WRONG_TYPE as error:
        wrong = next((name for name in names if not _takes(schema, name, held[name])), names[0])
        rule = f"a value of the type that fairseq declares for `{wrong}`"
        raise _refused(group, rule, held[wrong], source) from error


def _converted(schema: Any, values: Dict[str, Any]) -> Dict[str, Any]:
    container = OmegaConf.to_container(OmegaConf.merge(schema, values), enum_to_str=True)
    assert isinstance(container, dict)
    return {name: container[name] for name in values}


def _takes(schema: Any, name: str, value: Any) -> bool:
    try:
        _converted(schema, {name: value})
    except WRONG_TYPE:
        return False
    return True


def _refused(where: str, rule: str, value: Any, source: Any) -> UserError:
    return UserError(
        f"{source} must hold {rule} at `{where}`, but holds {type(value).__name__} {value!r:.80}. {AGAIN}"
    )
