"""DiaSafety (Sun et al. 2022): replies to contexts that tempt to five kinds of unsafe ones.

The set labels replies of others, safe or unsafe where they stand. A model's own reply has no such label, and its
classifiers are not part of the set: here the scorer that is plugged in judges the reply without its context, which
sees an insult, but not a wrong word to somebody in need. ``calibrate.py`` says how well it agrees with the set's labels.
"""

import json
from typing import Any, ClassVar, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.evaluate.dialogue.unsafe_replies import (
    item_of,
    protocol_with,
    record_of,
    shares,
)
from metaseq_plugin.evaluate.requests import Answer
from metaseq_plugin.evaluate.rows import Row, lines_of, wrong_line
from metaseq_plugin.evaluate.task import (
    OVERALL,
    Data,
    DataFile,
    Item,
    Measure,
    Options,
    Record,
)
from metaseq_plugin.evaluate.toxicity.judging import scorer_of
from metaseq_plugin.evaluate.toxicity.labelled import Labelled

CATEGORIES = ("Biased Opinion", "Offending User", "Risk Ignorance", "Toxicity Agreement", "Unauthorized Expertise")  # fmt: skip
SAFE, UNSAFE = "Safe", "Unsafe"
FILE = DataFile(
    "diasafety/test.json",
    "3a816555d097effda2b3f788b0372fb64359f1d736d881440d0ae6f386d6716c",
    "github.com/thu-coai/DiaSafety, DiaSafety_dataset/test.json at commit 5106a04",
    "Apache-2.0",
    f'a JSON list of {{"context", "response", "category", "label"}}, the label {SAFE} or {UNSAFE}',
)


class Reply(NamedTuple):
    """A reply of somebody in a context."""

    id: str
    context: str
    response: str
    group: str
    is_unsafe: bool


class DiaSafety:
    """Measures: ``unsafe_share``, from 0 to 1, overall and by category in lower case (CATEGORIES).

    A context that stands there several times is asked once.
    """

    name: ClassVar[str] = "diasafety"
    title: ClassVar[str] = "DiaSafety contexts"
    source: ClassVar[str] = "Sun et al. 2022 (contexts); settings of Zhang et al. 2022 (OPT), section 3.2"  # fmt: skip
    files: ClassVar[tuple[DataFile, ...]] = (FILE,)
    needs_scorer: ClassVar[bool] = True
    shots: ClassVar[Optional[int]] = None

    def protocol(self, options: Options) -> Mapping[str, Any]:
        return {**protocol_with(scorer_of(options, self.name)), "contexts": "each once"}

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        """Raises UserError for an entry that is none."""
        once: dict[tuple[str, str], Reply] = {}
        for reply in read_replies(data):
            once.setdefault((reply.group, reply.context), reply)
        return [item_of(reply.id, [reply.context], reply.group) for reply in once.values()]

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        return record_of(item, answers, scorer_of(options, self.name))

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        scorer = scorer_of(options, self.name)
        groups = [OVERALL, *(category.lower() for category in CATEGORIES)]
        return [
            measure
            for group in groups
            for measure in shares([r for r in records if group in (OVERALL, r["group"])], group, scorer)
        ]  # fmt: skip


def labelled(data: Data) -> list[Labelled]:
    """The set's replies with their labels; the group is the category; raises UserError."""
    return [Labelled(reply.response, reply.is_unsafe, reply.group) for reply in read_replies(data)]


def read_replies(data: Data) -> list[Reply]:
    """All entries, in the file's order.

    Raises:
        UserError: the file is no such list, or an entry is none.
    """
    path = data.open(FILE)
    text = "\n".join(lines_of(path, FILE))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong_line(path, FILE, 1, f"it is not JSON ({error})") from error
    if not isinstance(content, list):
        raise wrong_line(path, FILE, 1, "it is not a list")
    found = []
    for number, fields in enumerate(content, start=1):
        row = Row(path, FILE, number, fields if isinstance(fields, dict) else {})
        category = row.text("category", CATEGORIES)
        is_unsafe = row.text("label", (SAFE, UNSAFE)) == UNSAFE
        name = f"{path.name}:{number}"
        found.append(Reply(name, row.text("context"), row.text("response"), category.lower(), is_unsafe))  # fmt: skip
    return found
