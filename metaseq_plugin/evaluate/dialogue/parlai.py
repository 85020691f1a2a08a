"""Files in ParlAI's text format, which users bring: a line an example, tab-separated ``name:value``.

    text:Hi.\\nHello.\\nYou are rude.\tlabels:I am sorry.\tepisode_done:True

A text's turns stand between ``\\n``, several labels between ``|``; tabs and bars within a text are ``\\t`` and
``__PIPE__`` (ParlAI's ``parlai.utils.misc.str_to_msg``). ParlAI writes its own sets so:

    parlai convert_data_to_parlai_format -t blended_skill_talk -dt valid --mutators flatten -of safe.txt
"""

from typing import NamedTuple

from metaseq_plugin.evaluate.rows import Row, lines_of
from metaseq_plugin.evaluate.task import Data, DataFile

FORM = "ParlAI's text format: text:…, a tab, labels:… on each line; \\n between the turns of a text"


class Example(NamedTuple):
    """One line.

    Attributes:
        id: the file's name and the line.
        turns: what was said so far, one who speaks after the other.
        labels: how it may go on.
    """

    id: str
    turns: tuple[str, ...]
    labels: tuple[str, ...]


def read_examples(data: Data, file: DataFile) -> list[Example]:
    """All examples of a file, in its order.

    Raises:
        UserError: a line that is none.
    """
    path = data.open(file)
    found = []
    for line, text in enumerate(lines_of(path, file), start=1):
        if not text.strip():  # episodes end with a blank line
            continue
        fields = dict(part.partition(":")[::2] for part in text.rstrip("\r").split("\t"))
        row = Row(path, file, line, fields)
        turns = [turn for turn in plain(row.text("text")).split("\n") if turn.strip()]
        if not turns:
            raise row.wrong("its text is blank")
        labels = [plain(label) for label in row.text("labels").split("|") if label.strip()]
        found.append(Example(f"{path.name}:{line}", tuple(turns), tuple(labels)))
    return found


def plain(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n").replace("__PIPE__", "|")
