"""One HTML file that needs nothing else: no network, no library, no server.

    style = DOCUMENT_STYLE + asset("metaseq_plugin.report.page", "style.css")
    filled(template, {"policy": policy(style, script), "style": style, …})
    write(path, text, "--html")

The page's own policy (Content-Security-Policy) lets apply and run what is in the file, known by its hash, and nothing
else; it cannot ask any host for anything.
"""

import errno
import os
import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Mapping

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage import atomic

PLACE = re.compile(r"\{\{(\w+)\}\}")


def asset(package: str, name: str) -> str:
    """The text of a file that lies in ``package``."""
    return files(package).joinpath(name).read_text("utf-8")


def document_style() -> str:
    """The style of pages that are read; a page's own follows it."""
    return asset("metaseq_plugin.pages", "base.css") + asset("metaseq_plugin.pages", "document.css")


def filled(template: str, content: Mapping[str, str]) -> str:
    """``template`` with every ``{{name}}`` replaced; what is put in is not looked through again."""
    return PLACE.sub(lambda place: content[place[1]], template)


def policy(style: str, script: str = "") -> str:
    """What the browser lets the page do: apply this style, run this script (none without), and nothing else."""
    run = f"script-src '{hashed(script)}'; " if script else ""
    return (
        f"default-src 'none'; style-src '{hashed(style)}'; {run}"
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def hashed(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


def write(path: Path, text: str, option: str) -> None:
    """Write ``text`` to ``path``; an older file is replaced, a folder is made.

    Raises:
        UserError: the file, which ``option`` named, cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path) as unfinished:
            # A lone surrogate, as in a path that is not UTF-8, is shown as an escape.
            unfinished.write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(
            f"`{option}` must be a file that can be written, but {path} cannot ({error.strerror}). Set another."
        ) from error
