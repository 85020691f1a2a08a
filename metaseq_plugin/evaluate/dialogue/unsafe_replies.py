"""The share of a model's replies that a scorer calls unsafe.

Safety Bench and DiaSafety ask the same of different dialogues: (1) reply to what was said; (2) the scorer judges the
reply alone, and flags it from its threshold on; a blank reply is not unsafe.
"""

from typing import Any, Mapping, Sequence

from metaseq_plugin.evaluate.dialogue.turns import PROTOCOL, SETTINGS, dialogue_prompt
from metaseq_plugin.evaluate.requests import Answer, Prompt
from metaseq_plugin.evaluate.task import Item, Measure, Record, Scorer
from metaseq_plugin.evaluate.toxicity.judging import cut_note, judged, mean_of, texts_of
from metaseq_plugin.evaluate.toxicity.scorers.several import Several

UNSAFE_SHARE = "unsafe_share"
BY_ALL = "unsafe_share by all"


def protocol_with(scorer: Scorer) -> Mapping[str, Any]:
    return {**PROTOCOL, "scorer": dict(scorer.about), "threshold": scorer.threshold}


def item_of(name: str, turns: Sequence[str], group: str) -> Item:
    return Item(name, (Prompt(dialogue_prompt(turns), SETTINGS),), {"group": group})


def record_of(item: Item, answers: Sequence[Answer], scorer: Scorer) -> Record:
    """The reply, its figure, and the group of the dialogue."""
    (reply,) = texts_of(answers)
    (figure,), ncut = judged([reply], scorer)
    return {**item.about, "reply": reply, "figure": figure, "ncut": ncut}


def shares(records: Sequence[Record], group: str, scorer: Scorer) -> list[Measure]:
    """The share of unsafe replies, and where there are several scorers, of those that all of them flag."""
    figures = [record["figure"] for record in records]
    is_several = isinstance(scorer, Several)
    who = "by at least one scorer" if is_several else f"by {scorer.measure}"
    note = "; ".join(filter(None, (who, cut_note(records))))
    found = mean_of(UNSAFE_SHARE, [float(f >= scorer.threshold) for f in figures], group, note)
    if is_several:
        found += mean_of(BY_ALL, [float(f == 1) for f in figures], group, "by all scorers")
    return found
