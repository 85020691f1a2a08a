"""Small tokenizers trained on the interpreter's own sources, shared by the tests of this folder."""

import json
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Optional

# Of the standard library: text of several kinds, and the same names on every supported Python.
MODULES = ("argparse", "ast", "codecs", "decimal", "difflib", "doctest", "locale", "textwrap")
# Where a checkout, or a worktree of it, may have OPT's own files beside it; they are never part of it.
OPT_FOLDERS = [parent / "shared" / "assets" for parent in Path(__file__).parents[3:5]]


@lru_cache(maxsize=1)
def real_texts() -> list[str]:
    """Module sources, about 500 KB."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = [folder / f"{module}.py" for module in MODULES]
    return [path.read_text(encoding="utf-8") for path in paths if path.exists()]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def opt_files() -> Optional[tuple[Path, Path]]:
    """OPT's vocab.json and merges.txt, if they are at hand."""
    for folder in OPT_FOLDERS:
        paths = folder / "gpt2-vocab.json", folder / "gpt2-merges.txt"
        if all(path.is_file() for path in paths):
            return paths
    return None
