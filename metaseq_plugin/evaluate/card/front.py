"""The front matter of a card: YAML as Hugging Face's cards have it.

``license`` is one of their names, or ``other`` with ``license_name``; ``unknown`` where nobody said. The results of
``model-index`` are the figures over all items.
"""

import math
import re
from typing import Any, Iterator, Optional

from metaseq_plugin.evaluate.card.facts import Facts
from metaseq_plugin.evaluate.figures import spoken
from metaseq_plugin.evaluate.results import TaskResult
from metaseq_plugin.evaluate.task import OVERALL
from metaseq_plugin.formats.model import HF

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as "mit", "apache-2.0"
LIBRARIES = {HF: "transformers"}
GENERATION = "text-generation"


def front_matter(facts: Facts, licence: Optional[str]) -> list[str]:
    """Its lines, with the marks around them."""
    import yaml

    content: dict[str, Any] = {
        **license_fields(licence),
        "library_name": LIBRARIES.get(facts.model.format, "fairseq"),
        "pipeline_tag": GENERATION,
        "tags": ["opt", "metaseq-plugin", "text-generation"],
    }
    measured = list(index(facts))
    if measured:
        content["model-index"] = [{"name": facts.name, "results": measured}]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return ["---", *text.splitlines(), "---"]


def license_fields(licence: Optional[str]) -> dict[str, str]:
    if licence is None:
        return {"license": "unknown"}
    if IDENTIFIER.fullmatch(licence):
        return {"license": licence}
    return {"license": "other", "license_name": licence}


def index(facts: Facts) -> Iterator[dict[str, Any]]:
    """Of every task that has a figure over all items."""
    for results in facts.results.values():
        for name, task in results.tasks.items():
            metrics = list(figures(task))
            if metrics:
                dataset = {"name": task.title, "type": name}
                yield {"task": {"type": GENERATION}, "dataset": dataset, "metrics": metrics}


def figures(task: TaskResult) -> Iterator[dict[str, Any]]:
    for measure in task.measures:
        if measure.group == OVERALL and math.isfinite(measure.value):
            value = round(measure.value, 6)
            yield {"type": measure.name, "name": spoken(measure.name), "value": value}
