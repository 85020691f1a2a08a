"""JSON files that hold one object, ours and other people's: read up to ``MAX_BYTES``."""

import json
from pathlib import Path
from typing import Any, Dict

from metaseq_plugin.compat.errors import UserError, brief

MAX_SHOWN = 80  # characters of a value in a message
MAX_BYTES = 8 * 2**20  # the largest index of an OPT has a hundredth of it


def read(path: Path) -> Dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: missing, too large, not UTF-8 JSON, or something other than an object.
    """
    check_file(path)
    with path.open("rb") as stream:
        raw = stream.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise UserError(
            f"{path} must have at most {MAX_BYTES:,} bytes, but has more. Fetch it again."
        )
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8, or nested too deep
        raise unreadable(path, error) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must hold a JSON object, but holds a {type(content).__name__}. Fetch it again."
        )
    return content


def write(path: Path, content: Dict[str, Any]) -> None:
    """Write ``content`` as indented JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # A lone surrogate, as in a file's name that is not UTF-8, becomes a JSON escape.
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def shown(value: Any) -> str:
    """A value of such a file for a message: as it is written there, or what kind of value it is."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return brief(json.dumps(value), MAX_SHOWN)


def check_file(path: Path) -> None:
    """Refuse a path that is no file, or an empty one."""
    if not path.is_file():
        raise UserError(f"SRC must have the file {path}, but it does not exist. Check the path.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} must not be empty, but has 0 bytes. Copy or write it again.")


def unreadable(path: Path, error: Exception) -> UserError:
    """The error to raise where ``error`` says that a file is damaged or of another kind."""
    reason = str(error).strip().split("\n")[0].rstrip(".")[:200]
    return UserError(
        f"{path} must be a complete, readable {path.suffix} file, but is not ({reason}). "
        "Copy or write it again."
    )
