"""Safety Bench's unit tests (Dinan et al. 2021): how often is a reply unsafe, where what was said is safe, and where not?

Four files of contexts, which a user writes with ParlAI (docs/scorers.md), as projects/safety_bench of
facebookresearch/ParlAI takes them: the first 180 of each, of the unsafe ones those labelled ``__notok__``, and all of
the adversarial ones.
"""

from typing import Any, ClassVar, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.dialogue.parlai import FORM, Example, read_examples
from metaseq_plugin.evaluate.dialogue.unsafe_replies import (
    item_of,
    protocol_with,
    record_of,
    shares,
)
from metaseq_plugin.evaluate.requests import Answer
from metaseq_plugin.evaluate.task import Data, DataFile, Item, Measure, Options, Record
from metaseq_plugin.evaluate.toxicity.judging import scorer_of

NCONTEXTS = 180
NOT_OK = "__notok__"


class Setting(NamedTuple):
    """One kind of contexts.

    Attributes:
        ncontexts: the first so many; None: all.
        label: of those that are meant; None: whatever theirs is.
    """

    group: str
    ncontexts: Optional[int]
    label: Optional[str]
    file: DataFile


def _file(group: str, task: str, licence: str) -> DataFile:
    source = (
        f"parl.ai, by `parlai convert_data_to_parlai_format {task} -of safety_bench/{group}.txt`"
    )
    return DataFile(f"safety_bench/{group}.txt", None, source, licence, FORM)


SETTINGS = (
    Setting("safe", NCONTEXTS, None,
            _file("safe", "-t blended_skill_talk -dt valid --mutators flatten", "CC BY 4.0")),
    Setting("realistic", NCONTEXTS, None,
            _file("realistic", "-t twitter -dt valid", "not stated in ParlAI")),
    Setting("unsafe", NCONTEXTS, NOT_OK,
            _file("unsafe", "-t dialogue_safety:standard -dt test --round 3", "not stated in ParlAI")),
    Setting("adversarial", None, None,
            _file("adversarial", "-t bot_adversarial_dialogue:HumanSafetyEvaluation -dt test "
                  "--bad-include-persona False --flatten-dialogue True", "not stated in ParlAI")),
)  # fmt: skip


class SafetyBench:
    """Measures: ``unsafe_share``, from 0 to 1, by setting; of several scorers those that at least one flags.

    Where several judge, ``unsafe_share by all`` is of those that all of them flag. Which of the two the OPT paper's
    table shows, and of which tools, it does not say.
    """

    name: ClassVar[str] = "safety-bench"
    title: ClassVar[str] = "Safety Bench, generation tests"
    source: ClassVar[str] = "Dinan et al. 2021, section 5; settings of Zhang et al. 2022 (OPT), section 3.2"  # fmt: skip
    files: ClassVar[tuple[DataFile, ...]] = tuple(setting.file for setting in SETTINGS)
    needs_scorer: ClassVar[bool] = True
    shots: ClassVar[Optional[int]] = None

    def protocol(self, options: Options) -> Mapping[str, Any]:
        contexts = {setting.group: [setting.ncontexts, setting.label] for setting in SETTINGS}
        return {**protocol_with(scorer_of(options, self.name)), "contexts": contexts}

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        """The settings' contexts in turn, so that a limit leaves some of each; raises UserError for a wrong line."""
        by_setting = [
            [item_of(f"{setting.group}/{example.id}", example.turns, setting.group) for example in contexts_of(data, setting)]
            for setting in SETTINGS
        ]  # fmt: skip
        longest = max(map(len, by_setting))
        return [items[n] for n in range(longest) for items in by_setting if n < len(items)]

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        return record_of(item, answers, scorer_of(options, self.name))

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        scorer = scorer_of(options, self.name)
        return [
            measure
            for setting in SETTINGS
            for measure in shares([r for r in records if r["group"] == setting.group], setting.group, scorer)
        ]  # fmt: skip


def contexts_of(data: Data, setting: Setting) -> list[Example]:
    """Raises UserError where there are none."""
    examples = read_examples(data, setting.file)
    found = [e for e in examples if setting.label is None or setting.label in e.labels]
    if not found:
        raise UserError(
            f"{setting.file.path} must have lines with labels:{setting.label}, but has none. "
            f"Get it again from {setting.file.source}."
        )
    return found[: setting.ncontexts]
