"""State how well a scorer agrees with labels that people or Perspective gave, before it judges a model.

    metaseq eval calibrate --scorer lexicon:words.txt --data eval-data
    metaseq eval calibrate hatecheck --scorer classifier:toxic-bert --data eval-data --output calibration.json

The sets, each labelled by somebody else:
real-toxicity-prompts, 4,773 texts with Perspective's stored toxicity, positive from 0.5 on;
hatecheck, 3,728 cases of 29 functionalities, hateful or not; the accuracy of each is printed;
diasafety, 1,095 replies that people called safe or unsafe in their contexts, which the scorer does not see.

AUC is the chance that a positive text gets a higher figure than another one, half where they are equal: 0.5 is no
better than chance. Precision, recall and F1 are at the scorer's threshold. What they mean: docs/scorers.md.
"""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, cast

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.tools.tables import show, table
from metaseq_plugin.evaluate.data_folder import DataFolder
from metaseq_plugin.evaluate.task import Data, Scorer
from metaseq_plugin.evaluate.toxicity.agreement import Agreement, agreement
from metaseq_plugin.evaluate.toxicity.labelled import Labelled
from metaseq_plugin.evaluate.toxicity.scorers.checking import cut_by
from metaseq_plugin.evaluate.toxicity.scorers.reading import SCORER_HELP, read_scorer
from metaseq_plugin.storage import json_file
from metaseq_plugin.storage.json_lines import finite

# name -> the module and function that reads it, below metaseq_plugin.evaluate
SETS: Mapping[str, str] = {
    "real-toxicity-prompts": "toxicity.labelled:real_toxicity",
    "hatecheck": "toxicity.hatecheck:labelled",
    "diasafety": "dialogue.diasafety:labelled",
}
FORMAT = 1
AT_ONCE = 256  # texts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; default: all")
    add("--scorer", required=True, help=SCORER_HELP)
    add("--data", type=Path, required=True, metavar="DIR", help="the folder of evaluation sets")
    add("--any-data", action="store_true", help="take files with another checksum than expected")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON, too")


def run(args: argparse.Namespace) -> None:
    """Print a table for each set; raises UserError for any mistake."""
    unknown = [name for name in args.sets if name not in SETS]
    if unknown:
        raise UserError(
            f"`SET` must be one of {', '.join(SETS)}, but is {unknown[0]}. Set hatecheck, say."
        )
    folder = DataFolder(args.data, args.any_data, show)
    chosen = {name: read(name, folder) for name in dict.fromkeys(args.sets or SETS)}
    scorer = read_scorer(args.scorer)
    found = {}
    for name, texts in chosen.items():
        figures = figures_of(texts, scorer)
        found[name] = sums_of(texts, figures, scorer.threshold)
        show(f"\n{name}, {scorer.measure} from {scorer.threshold:.3g} on\n{drawn(found[name])}")
    if cut_by(scorer):
        show(
            f"\n{cut_by(scorer):,} texts are longer than the scorer reads: their beginning was judged."
        )
    if args.output is not None:
        write(args.output, {"format": FORMAT, "scorer": dict(scorer.about), "threshold": scorer.threshold,
              "data": folder.checksums, "sets": found, "ncut": cut_by(scorer)})  # fmt: skip


def read(name: str, data: Data) -> list[Labelled]:
    """The texts of a set; raises UserError."""
    module, _, function = SETS[name].partition(":")
    reader = vars(import_module(f"metaseq_plugin.evaluate.{module}"))[function]
    return cast(Callable[[Data], list[Labelled]], reader)(data)


def figures_of(texts: Sequence[Labelled], scorer: Scorer) -> list[float]:
    figures: list[float] = []
    for start in range(0, len(texts), AT_ONCE):
        figures += scorer.score([one.text for one in texts[start : start + AT_ONCE]])
    return figures


def sums_of(
    texts: Sequence[Labelled], figures: Sequence[float], threshold: float
) -> dict[str, dict[str, Any]]:
    """What is stated of all texts, and of each group: group -> name -> figure; None where there is none.

    Raises:
        UserError: all texts have one label.
    """
    labels = [one.is_positive for one in texts]
    found = {"all": as_fields(agreement(figures, labels, threshold))}
    right = [(figure >= threshold) == label for figure, label in zip(figures, labels)]
    found["all"]["accuracy"] = sum(right) / len(right)
    for group in dict.fromkeys(one.group for one in texts):
        places = [place for place, one in enumerate(texts) if one.group == group]
        own = [labels[place] for place in places]
        fields: dict[str, Any] = {"n": len(own), "npositive": sum(own)}
        if 0 < sum(own) < len(own):
            fields = as_fields(agreement([figures[place] for place in places], own, threshold))
        found[group] = {**fields, "accuracy": sum(right[place] for place in places) / len(places)}
    return found


def as_fields(found: Agreement) -> dict[str, Any]:
    return dict(found._asdict())


def drawn(found: Mapping[str, Mapping[str, Any]]) -> str:
    names = ("n", "npositive", "auc", "precision", "recall", "f1", "accuracy")
    rows = [[group, *(cell(fields.get(name)) for name in names)] for group, fields in found.items()]
    headers = ["", "texts", "positive", "AUC", "precision", "recall", "F1", "accuracy"]
    return table(headers, rows)


def cell(value: Any) -> str:
    """A count as it is, a share with three digits, and nothing where there is none."""
    if value is None or value != value:  # nan
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def write(path: Path, content: dict[str, Any]) -> None:
    try:
        json_file.write(path, dict(finite(content)))
    except OSError as error:
        raise UserError(
            f"`--output` must be a file that can be written, but {path} is not ({error.strerror}). Set another."
        ) from error
