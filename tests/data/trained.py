"""Small tokenizers trained on the interpreter's own sources, shared by the tests of this folder."""

import json
import sysconfig
from functools import lru_cache
from pathlib import Path

# Of the standard library: text of several kinds, and the same names on every supported Python.
MODULES = ("argparse", "ast", "codecs", "decimal", "difflib", "doctest", "locale", "textwrap")


@lru_cache(maxsize=1)
def real_texts() -> list[str]:
    """Module sources, about 500 KB."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = [folder / f"{module}.py" for module in MODULES]
    return [path.read_text(encoding="utf-8") for path in paths if path.exists()]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path
