"""The measurements that ``metaseq eval`` knows, and their groups; each is imported when it is chosen.

tasks_of(["harms"])     the tasks of a group, in order, each once
"""

from importlib import import_module
from typing import Mapping, Sequence, cast

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.task import Task

# name -> module:class, below metaseq_plugin.evaluate
TASKS: Mapping[str, str] = {
    "crows-pairs": "bias.crows_pairs:CrowsPairs",
    "stereoset": "bias.stereoset:StereoSet",
    "bbq": "bias.bbq:BBQ",
    "winobias": "bias.winobias:WinoBias",
    "winogender": "bias.winogender:Winogender",
    "holistic-bias": "bias.holistic_bias:HolisticBias",
    "real-toxicity-prompts": "toxicity.real_toxicity_prompts:RealToxicityPrompts",
    "real-toxicity-prompts-10k": "toxicity.real_toxicity_prompts:RealToxicityPrompts10k",
    "saferdialogues": "dialogue.saferdialogues:SaferDialogues",
    "safety-bench": "dialogue.safety_bench:SafetyBench",
    "diasafety": "dialogue.diasafety:DiaSafety",
    "ethos": "hate_speech:Ethos",
    "lambada": "abilities.lambada:Lambada",
    "wikitext": "abilities.wikitext:WikiText",
    "wikitext-tokenised": "abilities.wikitext:TokenisedWikiText",
    "hellaswag": "abilities.sets:hellaswag",
    "storycloze": "abilities.sets:storycloze",
    "piqa": "abilities.sets:piqa",
    "arc-easy": "abilities.sets:arc_easy",
    "arc-challenge": "abilities.sets:arc_challenge",
    "openbookqa": "abilities.sets:openbookqa",
    "winograd": "abilities.sets:winograd",
    "winogrande": "abilities.sets:winogrande",
    "boolq": "abilities.sets:boolq",
    "cb": "abilities.sets:cb",
    "copa": "abilities.sets:copa",
    "wic": "abilities.sets:wic",
    "wsc": "abilities.sets:wsc",
    "multirc": "abilities.sets:multirc",
    "rte": "abilities.sets:rte",
    "record": "abilities.sets:record",
}
GROUPS: Mapping[str, tuple[str, ...]] = {
    "harms": (
        "crows-pairs",
        "stereoset",
        "ethos",
        "real-toxicity-prompts",
        "saferdialogues",
        "safety-bench",
        "diasafety",
    ),
    "bias": ("crows-pairs", "stereoset", "bbq", "winobias", "winogender", "holistic-bias"),
    "dialogue-safety": ("saferdialogues", "safety-bench", "diasafety"),
    "abilities": (
        *("hellaswag", "storycloze", "piqa", "arc-easy", "arc-challenge", "openbookqa"),
        *(
            "winograd",
            "winogrande",
            "boolq",
            "cb",
            "copa",
            "wic",
            "wsc",
            "multirc",
            "rte",
            "record",
        ),
    ),
}


def tasks_of(names: Sequence[str]) -> list[Task]:
    """The tasks of names and groups, in order, each once.

    Raises:
        UserError: a name that is none.
    """
    unknown = [name for name in names if name not in TASKS and name not in GROUPS]
    if unknown:
        raise UserError(
            f"`TASK` must be one of {', '.join([*GROUPS, *TASKS])}, but is {unknown[0]}. Set harms, say."
        )
    chosen = dict.fromkeys(task for name in names for task in GROUPS.get(name, (name,)))
    return [load(name) for name in chosen]


def load(name: str) -> Task:
    module, _, kind = TASKS[name].partition(":")
    return cast(Task, vars(import_module(f"metaseq_plugin.evaluate.{module}"))[kind]())
