"""Every option of ``fairseq-train``, read off fairseq's own parser with the plugin's components: a table in JSON.

    python -m metaseq_plugin.launch.option_table          # prints it; takes as long as importing torch and fairseq

``fairseq_options.py`` reads and keeps it. fairseq adds the options of the task, arch, criterion and so on that a
command names, so that the table has a part for each:

    {"common": {"max-update": {"kind": "int"}, …},
     "parts": {"task": {"opt_language_modeling": {"tokens-per-sample": …}, …}, "arch": …, "criterion": …},
     "defaults": {"task": "translation", "lr-scheduler": "fixed", …}}       what is added where nothing is named
"""

import argparse
import json
from typing import Any, Callable, Mapping

KINDS: Mapping[Any, str] = {int: "int", float: "float"}


def rows(parser: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    """Long name, without dashes in front -> kind ("flag", "int", "float", "text", "either") and choices."""
    found = {}
    for action in parser._actions:
        kind = KINDS.get(action.type, "text")
        kind = "flag" if action.nargs == 0 else "either" if action.nargs == "?" else kind
        row: dict[str, Any] = {"kind": kind}
        if action.choices is not None:
            row["choices"] = sorted(map(str, action.choices))
        for name in action.option_strings:
            if name.startswith("--") and action.dest != "help":
                found[name[2:]] = row
    return found


def added_by(add: Callable[[argparse.ArgumentParser], Any]) -> dict[str, dict[str, Any]]:
    """What ``add`` adds to a parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add(parser)
    return rows(parser)


def read() -> dict[str, Any]:
    """The table; imports fairseq and the plugin."""
    from fairseq import options
    from fairseq.dataclass.utils import gen_parser_from_dataclass
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_REGISTRY

    import metaseq_plugin  # noqa: F401  registers our components

    parser = options.get_training_parser()
    parts: dict[str, dict[str, Any]] = {
        "task": {name: added_by(task.add_args) for name, task in TASK_REGISTRY.items()},
        "arch": {name: added_by(model.add_args) for name, model in ARCH_MODEL_REGISTRY.items()},
    }
    for kind, registry in REGISTRIES.items():
        # As fairseq.options.parse_args_and_arch adds them.
        members = parts[kind.replace("_", "-")] = {}
        for name, component in registry["registry"].items():
            dataclass = registry["dataclass_registry"].get(name)
            if hasattr(component, "add_args"):
                members[name] = added_by(component.add_args)
            elif dataclass is not None:
                config = dataclass()
                members[name] = added_by(
                    lambda to, config=config: gen_parser_from_dataclass(to, config)
                )  # type: ignore[misc]
            else:
                members[name] = {}
    defaults = {kind: parser.get_default(kind.replace("-", "_")) for kind in parts}
    return {"common": rows(parser), "parts": parts, "defaults": defaults}


if __name__ == "__main__":
    print(json.dumps(read()))  # noqa: T201
