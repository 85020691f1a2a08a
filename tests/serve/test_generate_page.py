"""docs/generate.md has every option with its meaning and default, as the code has them."""

import re
from pathlib import Path

from metaseq_plugin.generation.options import MEANINGS, default_of
from metaseq_plugin.serve.prompt_options import FLAGS

PAGE = Path(__file__).resolve().parents[2] / "docs/generate.md"


def test_the_table_of_options_is_the_codes() -> None:
    section = PAGE.read_text("utf-8").split("## What can be asked")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \| (.*?) \|$", section, re.MULTILINE)
    assert [name for name, *_ in rows] == list(MEANINGS)
    for name, flag, meaning, default in rows:
        assert flag.strip("`") == ("" if name == "with_scores" else FLAGS[name])
        assert meaning == MEANINGS[name]
        is_off = default_of(name) in (None, (), {})
        assert default == ("" if is_off else str(default_of(name)))
