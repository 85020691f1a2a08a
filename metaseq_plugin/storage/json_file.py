"""JSON files that hold one object, ours and other people's."""

import json
from pathlib import Path
from typing import Any, Dict

from metaseq_plugin.compat.errors import UserError


def read(path: Path) -> Dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: missing, not UTF-8 JSON, or something other than an object.
    """
    check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
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
