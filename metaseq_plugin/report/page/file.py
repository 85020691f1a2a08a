"""The report as one HTML file (``pages/html.py``): data, style and scripts, put into ``index.html``.

    write_page([account], Path("report.html"))
    page_text([one, other])                  # the same as text, of two runs side by side

Data stands as JSON in a script element that is never run, with every ``<``, ``>`` and ``&`` written as ``\\u003c`` …, so
that no note or command can end the element.
"""

import json
from pathlib import Path
from typing import Any, Mapping, Sequence

from metaseq_plugin.ledger.account import Account
from metaseq_plugin.pages.html import asset, document_style, filled, policy, write
from metaseq_plugin.report.page.document import document

PACKAGE = "metaseq_plugin.report.page"
# In this order they are one script: what is used is above or below, nothing is imported.
SCRIPTS = ("dom", "numbers", "scale", "curves", "marks", "cursor", "values", "plot", "sections", "app")  # fmt: skip
# JSON means the same with these written as escapes; U+2028 and U+2029 end a line in older browsers.
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def write_page(accounts: Sequence[Account], path: Path) -> None:
    """Write the report of one run, or of several side by side, to ``path``; an older file is replaced.

    Raises:
        UserError: the file cannot be written.
    """
    write(path, page_text(accounts), "--html")


def page_text(accounts: Sequence[Account]) -> str:
    """The file's text, of at least one account."""
    style = document_style() + asset(PACKAGE, "style.css")
    script = "\n".join(asset(PACKAGE, f"{name}.js") for name in SCRIPTS)
    content = {
        "policy": policy(style, script),
        "style": style,
        "script": script,
        "ledger": as_data(document(accounts)),
    }
    return filled(asset(PACKAGE, "index.html"), content)


def as_data(content: Mapping[str, Any]) -> str:
    """JSON that is safe inside a script element.

    Raises:
        ValueError: a number is not finite, which JSON does not have.
    """
    return json.dumps(content, separators=(",", ":"), allow_nan=False).translate(ESCAPES)
