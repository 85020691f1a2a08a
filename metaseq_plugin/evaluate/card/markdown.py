"""Markdown: tables, code and texts that stay what they are.

table(["figure", "value"], [["updates", "1,000"]])
"""

import re
from typing import Iterable, Sequence

MARKUP = re.compile(r"([\\`*\[\]<>|])")
UNKNOWN = "unknown"


def plain_text(text: str) -> str:
    """``text`` on one line, with nothing in it that Markdown or HTML would take for markup."""
    return MARKUP.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """``text`` as code; it may hold backticks, and stands on one line."""
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if len(ticks) > 1 else ""
    return f"{ticks}{space}{' '.join(text.split())}{space}{ticks}".replace("|", "\\|")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def listed(sentences: Iterable[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]
