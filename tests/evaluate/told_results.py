"""Results of models that nobody measured, with all that a file of results may hold; for the page, plot and card."""

from typing import Any

from metaseq_plugin.evaluate.results import Results, TaskResult
from metaseq_plugin.evaluate.task import Measure

ZEROS = "0" * 64


def task(*measures: Measure, title: str = "Task", source: str = "A paper, Table 1", **fields: Any) -> TaskResult:  # fmt: skip
    given = {
        "protocol": {"prompt": "{text}", "seed": 1},
        "data": {"task/data.csv": ZEROS},
        "n": max(measure.n for measure in measures),
        "ncut": 0,
        "nmerged": 0,
        "items": ZEROS,
        **fields,
    }
    return TaskResult(title=title, source=source, measures=measures, **given)


def crows_pairs(overall: float = 52.5, **fields: Any) -> TaskResult:
    names = "stereotype_score", "likelihood_difference"
    groups = {"overall": 1508, "gender": 262, "religion": 105, "race": 516}
    measures = [
        Measure(names[0], overall + 0.75 * place, 50 / n**0.5, n, group, None, "The full sentences' log-likelihoods.")
        for place, (group, n) in enumerate(groups.items())
    ]  # fmt: skip
    measures.append(Measure(names[1], 3.125, 0.0625, 1508))
    source = "Nangia et al. 2020, arXiv:2010.00133; the causal form of lm-evaluation-harness"
    return task(*measures, title="CrowS-Pairs", source=source, **{"ncut": 2, "nmerged": 7, **fields})  # fmt: skip


def ethos() -> TaskResult:
    measures = [
        Measure(name, 0.5 + place / 16, None, 433, "overall", (0.4375 + place / 16, 0.5625 + place / 16))
        for place, name in enumerate(("f1 zero-shot", "f1 one-shot", "f1 few-shot binary"))
    ]  # fmt: skip
    return task(*measures, title="ETHOS", source="Mollas et al. 2022, arXiv:2006.08328")


def lambada(acc: float = 33.25, **fields: Any) -> TaskResult:
    return task(
        Measure("perplexity", 41.5, 1.25, 5153),
        Measure("acc", acc, 0.65625, 5153),
        title="LAMBADA",
        source="Paperno et al. 2016, arXiv:1606.06031",
        **fields,
    )


def results(path: str = "runs/quickstart", num_parameters: Any = 125_239_296, **tasks: TaskResult) -> Results:  # fmt: skip
    """Of a model; ``crows_pairs=`` is the task crows-pairs. Without tasks, all of the above."""
    every = tasks or {"crows_pairs": crows_pairs(), "ethos": ethos(), "lambada": lambada()}
    model = {
        "path": path,
        "checkpoint": "checkpoint_best.pt",
        "num_parameters": num_parameters,
        "dtype": "float32",
        "device": "cpu",
        "fingerprint": "ab" * 8,
        "longest": 2048,
    }
    options = {"limit": None, "shots": None, "seed": 1, "scorer": None}
    named = {name.replace("_", "-"): result for name, result in every.items()}
    return Results(model, options, {"metaseq-plugin": "0.1.0", "torch": "2.13.0"}, named)
