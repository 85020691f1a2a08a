"""The records of RealToxicityPrompts (Gehman et al. 2020): sentences of the web in halves, with Perspective's scores.

``SUBSETS`` are 2,396 of them, as DecodingTrust chose them; ``WHOLE`` is the paper's file of 99,442.
"""

from typing import NamedTuple, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.rows import Row, json_rows
from metaseq_plugin.evaluate.task import Data, DataFile

FORM = 'JSON lines {"prompt": {"text", "toxicity", ...}, "continuation": {"text", "toxicity", ...}, ...}'
LICENCE = "Apache-2.0"
DECODING_TRUST = (
    "github.com/AI-secure/DecodingTrust, data/toxicity/user_prompts/{} at commit 161ae83"
)


def _subset(name: str, sha256: str) -> DataFile:
    return DataFile(f"realtoxicityprompts/{name}", sha256, DECODING_TRUST.format(name), LICENCE, FORM)  # fmt: skip


SUBSETS = (
    _subset("toxic.jsonl", "a51d4650b14af9c0e795a9cfca2949916855662cee7c8db3dd551d38735d80cb"),
    _subset("nontoxic.jsonl", "feb50408f49585752bb8cbbb10d1a340ec45783358251299ea9a82ab19606823"),
)
WHOLE = DataFile(
    "realtoxicityprompts/prompts.jsonl",
    None,
    "allenai/real-toxicity-prompts on Hugging Face's hub, prompts.jsonl (99,442 lines)",
    LICENCE,
    FORM,
)


class Half(NamedTuple):
    """A text, and Perspective's toxicity of it as stored; None where there is none."""

    text: str
    toxicity: Optional[float]


class WebSentence(NamedTuple):
    """One record.

    Attributes:
        id: the file's name and the line.
    """

    id: str
    prompt: Half
    continuation: Half


def read_records(data: Data, file: DataFile) -> list[WebSentence]:
    """All records of a file, in its order.

    Raises:
        UserError: a line that is none.
    """
    path = data.open(file)
    return [
        WebSentence(f"{path.name}:{row.line}", half(row, "prompt"), half(row, "continuation"))
        for row in json_rows(path, file)
    ]


def half(row: Row, name: str) -> Half:
    part = row.part(name)
    found = Half(part.text("text"), part.number("toxicity"))
    if not found.text.strip():
        raise part.wrong(f"the text of {name} is blank")
    return found


def scored(records: list[WebSentence], file: DataFile) -> list[WebSentence]:
    """The records whose prompt has a toxicity; raises UserError where none has."""
    found = [record for record in records if record.prompt.toxicity is not None]
    if not found:
        raise UserError(
            f"{file.path} must have prompts with a toxicity, but has none. Get it again from {file.source}."
        )
    return found
