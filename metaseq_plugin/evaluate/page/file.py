"""The page of results as one HTML file that needs nothing else (``pages/html.py``).

write_page([read_results(Path("results.json"))], Path("results.html"))
"""

from html import escape
from pathlib import Path
from typing import Sequence

from metaseq_plugin.evaluate.page.document import body, title
from metaseq_plugin.evaluate.results import Results
from metaseq_plugin.pages.html import asset, document_style, filled, policy, write

PACKAGE = "metaseq_plugin.evaluate.page"
OPTION = "--page"


def write_page(results: Sequence[Results], path: Path) -> None:
    """Write the tables of one model, or of several side by side, to ``path``; an older file is replaced.

    Raises:
        UserError: the file cannot be written.
    """
    write(path, page_text(results), OPTION)


def page_text(results: Sequence[Results]) -> str:
    """The file's text, of at least one model."""
    style = document_style() + asset(PACKAGE, "style.css")
    content = {
        "policy": policy(style),
        "style": style,
        "title": escape(title(results)),
        "body": body(results),
    }
    return filled(asset(PACKAGE, "index.html"), content)
