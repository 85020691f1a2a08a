"""One HTML file that needs nothing else: no network, no library, no server.

    write_page([account], Path("report.html"))
    page_text([one, other])                  # the same as text, of two runs side by side

Data stands as JSON in a script element that is never run, with every ``<``, ``>`` and ``&`` written as ``\\u003c`` …, so
that no note or command can end the element. The page's own policy (Content-Security-Policy) lets run and apply what
is in the file, known by its hash, and nothing else; it cannot ask any host for anything.
"""

import json
import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Mapping, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.account import Account
from metaseq_plugin.report.page.document import document
from metaseq_plugin.storage import atomic

# In this order they are one script: what is used is above or below, nothing is imported.
SCRIPTS = ("dom", "numbers", "scale", "curves", "marks", "cursor", "values", "plot", "sections", "app")  # fmt: skip
PLACE = re.compile(r"\{\{(\w+)\}\}")
# JSON means the same with these written as escapes; U+2028 and U+2029 end a line in older browsers.
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def write_page(accounts: Sequence[Account], path: Path) -> None:
    """Write the report of one run, or of several side by side, to ``path``; an older file is replaced.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path) as unfinished:
            unfinished.write_text(page_text(accounts), "utf-8")
    except OSError as error:
        raise UserError(
            f"`--html` must be a file that can be written, but {path} cannot ({error.strerror}). Set another."
        ) from error


def page_text(accounts: Sequence[Account]) -> str:
    """The file's text, of at least one account."""
    style = asset("style.css")
    script = "\n".join(asset(f"{name}.js") for name in SCRIPTS)
    content = {
        "policy": policy(style, script),
        "style": style,
        "script": script,
        "ledger": as_data(document(accounts)),
    }
    return PLACE.sub(lambda place: content[place[1]], asset("index.html"))


def asset(name: str) -> str:
    return files("metaseq_plugin.report.page").joinpath(name).read_text("utf-8")


def policy(style: str, script: str) -> str:
    """What the browser lets the page do: apply this style, run this script, and nothing else."""
    return (
        f"default-src 'none'; style-src '{hashed(style)}'; script-src '{hashed(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def hashed(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


def as_data(content: Mapping[str, Any]) -> str:
    """JSON that is safe inside a script element.

    Raises:
        ValueError: a number is not finite, which JSON does not have.
    """
    return json.dumps(content, separators=(",", ":"), allow_nan=False).translate(ESCAPES)
