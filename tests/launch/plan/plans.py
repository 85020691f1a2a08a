"""Plans for tests: a command line as an ``Estimate``, and OPT-175B's own."""

import argparse

from metaseq_plugin.launch.plan.estimate import Estimate, estimate
from metaseq_plugin.launch.plan.options import add_options, assumptions, planned

OPT_175B = (
    "--arch opt_175b --gpus 992 --gpu a100-80gb --model-parallel-size 8 --batch-tokens 2M "
    "--tokens 300B --checkpoint-activations"
)


def parsed(line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(line.split())


def plan(line: str) -> Estimate:
    """The estimate of a command line behind ``metaseq plan``."""
    args = parsed(line)
    return estimate(planned(args), assumptions(args))
