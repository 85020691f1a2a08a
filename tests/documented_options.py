"""Which options the programs on the pages know, from their own parsers."""

import argparse
import re
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import FrozenSet, List, Tuple

from fairseq import options
from torch.distributed.run import get_args_parser

from metaseq_plugin.cli import MEMBERS, SUBCOMMANDS
from tests.documented import ROOT

PARSERS = {
    "fairseq-train": options.get_training_parser,
    "fairseq-validate": options.get_validation_parser,
    "fairseq-generate": options.get_generation_parser,
    "fairseq-interactive": options.get_interactive_generation_parser,
    "fairseq-eval-lm": options.get_eval_lm_parser,
    "fairseq-preprocess": options.get_preprocessing_parser,
}
CHOICES = ("--task", "--arch", "--criterion", "--optimizer", "--lr-scheduler", "--bpe")
# What `metaseq launch` chooses, whose options it takes too.
RECIPE = (
    "--task", "opt_streaming_language_modeling", "--criterion", "chunked_cross_entropy", "--optimizer", "adamw",
    "--lr-scheduler", "polynomial_decay",
)  # fmt: skip
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*\w")
# Of scripts/test.sh, pip, apt-get, sbatch and parlai.
FOREIGN = frozenset({
    "--all", "--no-deps", "--no-install-recommends", "--wrap",
    "--mutators", "--round", "--bad-include-persona", "--flatten-dialogue",
})  # fmt: skip


@lru_cache(maxsize=None)
def fairseq_knows(program: str, chosen: Tuple[str, ...]) -> FrozenSet[str]:
    """The options of a fairseq command with the task, arch and so on that ``chosen`` names."""
    parser = PARSERS[program]()
    if program != "fairseq-preprocess":
        words = ["data", "--user-dir", "metaseq_plugin"]
        if program != "fairseq-train" and program != "fairseq-eval-lm":
            words += ["--path", "x.pt"]
        if program == "fairseq-train":
            words += ["--arch", "opt"]
        options.parse_args_and_arch(parser, [*words, *chosen], parse_known=True)
    return frozenset(OPTION.findall(parser.format_help()))


def metaseq_knows(*names: str) -> FrozenSet[str]:
    """The options of ``metaseq prepare``, ``metaseq data clean`` and so on."""
    module = MEMBERS.get(names[0], {}).get(names[-1]) or SUBCOMMANDS[names[0]]
    if not isinstance(module, str):
        module = module[names[1]]
    parser = argparse.ArgumentParser()
    found = import_module(module)
    found.add_arguments(parser)
    more = fairseq_knows("fairseq-train", RECIPE) if "TAKES_MORE" in vars(found) else frozenset()
    return more | frozenset(OPTION.findall(parser.format_help()))


def torchrun_knows() -> FrozenSet[str]:
    return frozenset(OPTION.findall(get_args_parser().format_help()))


def lm_eval_knows() -> FrozenSet[str]:
    """The options of ``lm_eval``, nothing where it is not installed."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return frozenset()
    command = Path(spec.origin).parent / "_cli/run.py"
    return frozenset(OPTION.findall(command.read_text("utf-8")))


def source_knows(path: str) -> FrozenSet[str]:
    """The options that a script of ours speaks of."""
    return frozenset(OPTION.findall((ROOT / path).read_text("utf-8")))


def unknown_options(command: str) -> List[str]:
    """The options of a shell command that its program does not know."""
    command = command.replace("\\\n", " ").split(" | ")[-1].split("  #")[0]
    words = command.split()
    known: FrozenSet[str]
    started = re.search(r"\$\(which ([\w-]+)\)", command)
    if started is not None:
        before, after = command.split(started[0])
        return unknown_in(before, torchrun_knows()) + unknown_options(f"{started[1]} {after}")
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] in PARSERS:
        pairs = list(pairwise(words))
        chosen = tuple(word for pair in pairs if pair[0] in CHOICES for word in pair)
        known = fairseq_knows(words[0], chosen)
    elif words[0] == "metaseq" and words[1] not in ("doctor", "help"):
        known = metaseq_knows(*words[1:3])
    elif words[0] == "lm_eval":
        known = lm_eval_knows()
    elif words[:2] == ["python", "-m"]:
        known = source_knows(words[2].replace(".", "/") + ".py")
    elif words[0] == "python" and words[1].startswith("scripts/"):
        known = source_knows(words[1])
    elif words[:2] == ["bash", "scripts/quickstart.sh"]:
        known = source_knows("scripts/quickstart.py")
    else:
        known = frozenset()
    return unknown_in(command, known | {"--config-dir", "--config-name", "--logdir"} | FOREIGN)


def unknown_in(text: str, known: FrozenSet[str]) -> List[str]:
    return [option for option in OPTION.findall(text) if option not in known]


@lru_cache(maxsize=None)
def known_options() -> FrozenSet[str]:
    """The options of all programs with every choice of the plugin's."""
    known = (
        FOREIGN
        | torchrun_knows()
        | lm_eval_knows()
        | {"--config-dir", "--config-name", "--logdir", "--help"}
    )
    for task in (
        "opt_language_modeling",
        "opt_streaming_finetune_language_modeling",
        "opt_dummy_lm",
    ):
        for scheduler in ("polynomial_decay", "fixed"):
            chosen = ("--task", task, "--lr-scheduler", scheduler, "--arch", "opt", "--optimizer", "adamw",
                      "--criterion", "chunked_cross_entropy", "--bpe", "opt_bpe")  # fmt: skip
            known |= fairseq_knows("fairseq-train", chosen)
    for program in ("fairseq-interactive", "fairseq-eval-lm", "fairseq-preprocess"):
        known |= fairseq_knows(program, ())
    known |= fairseq_knows("fairseq-interactive", ("--bpe", "opt_sentencepiece"))
    for name, module in SUBCOMMANDS.items():
        for names in [(name,)] if isinstance(module, str) else [(name, part) for part in module]:
            known |= metaseq_knows(*names)
    for name, members in MEMBERS.items():
        for member in members:
            known |= metaseq_knows(name, member)
    scripts = [
        ROOT / "scripts/quickstart.py",
        ROOT / "scripts/slurm_cluster.py",
        ROOT / "tests/kills.py",
    ]
    for path in [*scripts, *(ROOT / "benchmarks").glob("*.py")]:
        known |= source_knows(str(path))
    return known
