"""Say what a run will need: memory, time, exchange and energy.

    metaseq plan --arch opt_175b --gpus 992 --gpu a100-80gb --model-parallel-size 8 --batch-tokens 2M \\
      --tokens 300B --checkpoint-activations

Nothing is built or asked of a device: all is formulas, docs/plan.md has them with their sources. --json prints every
number in bytes, seconds, FLOPs, kWh and kg (null: without end); --suggest adds the layouts of the same GPUs that fit,
the fastest first.
"""

import argparse
import json

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.plan.estimate import estimate
from metaseq_plugin.launch.plan.options import add_options, assumptions, planned
from metaseq_plugin.launch.plan.report import lines, suggestions
from metaseq_plugin.launch.plan.suggest import suggest
from metaseq_plugin.storage.json_lines import finite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--suggest", action="store_true", help="also the layouts that fit, ranked")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> None:
    """Print the plan."""
    if args.suggest and args.gpu is None:
        raise UserError("`--suggest` must come with --gpu, but that is missing. Set it.")
    asked = planned(args)
    result = estimate(asked, assumptions(args))
    found = suggest(asked, result.time.rate) if args.suggest else None
    if args.json:
        content = result.as_json()
        if found is not None:
            content["suggestions"] = [
                {**each._asdict(), "planned": each.planned._asdict()} for each in found.fitting
            ]
        print(json.dumps(finite(content), indent=2, default=plain))  # noqa: T201
        return
    print("\n".join(lines(result)))  # noqa: T201
    if found is not None and asked.device is not None:
        print("\n".join(suggestions(found, asked.device.memory)))  # noqa: T201


def plain(value: object) -> object:
    """What JSON has no word for."""
    return str(value)
