"""A task of lm_eval's, asked by ``metaseq eval``: lm_eval makes the questions and judges the answers.

(1) ``definition`` is a task file of lm_eval's: lm_eval's own for the task, with the documents of local files
    (``documents.py``). Nothing is fetched.
(2) lm_eval builds each document's context, with examples drawn by the seed, and its choices.
(3) What each choice would be worth is known beforehand, from the document's label or lm_eval's ``process_results``; a
    record keeps the log-likelihoods, and the worth of the likeliest choice. So nothing but ``items`` needs lm_eval.

``metaseq_opt`` under the stock ``lm_eval`` gives the same figures for the same files (``task_files.py``).
"""

import json
import logging
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.abilities.documents import Fields, Source, described
from metaseq_plugin.evaluate.requests import Answer, Pair, PairAnswer
from metaseq_plugin.evaluate.statistics import bootstrap, mean_and_error
from metaseq_plugin.evaluate.task import Data, DataFile, Item, Measure, Options, Record

NORMALISED = "_norm"  # lm_eval's ending for: divided by the choice's characters
F1 = "f1"
PERCENT = 100.0


@dataclass(frozen=True)
class Split:
    """Documents.

    Attributes:
        name: as lm_eval's task calls the split: "validation".
        form: of ``documents.read``.
    """

    name: str
    files: tuple[DataFile, ...]
    form: str


@dataclass(frozen=True)
class LmEvalTask:
    """A multiple-choice task of lm_eval's.

    Measures, in percent, as far as lm_eval's task has them:
        acc: the likeliest choice is right.
        acc_norm: the same, likelihoods divided by the choices' characters.
        f1, em: of CB, the mean F1 of its classes; of ReCoRD, of the likeliest entity's words, and exact.

    Attributes:
        asked, place: lm_eval's name of it, and its file below lm_eval's tasks, or a file of ours.
        fields: of a document on the hub -> the kind's name in ``documents.KINDS``.
        evaluated: what is asked about.
        examples: from where shots are drawn; None: from ``evaluated``, without the document itself.
    """

    name: str
    title: str
    source: str
    asked: str
    place: str
    fields: Fields
    evaluated: Split
    examples: Optional[Split] = None
    shots: Optional[int] = 0
    needs_scorer: bool = False

    @property
    def files(self) -> tuple[DataFile, ...]:
        return self.evaluated.files + (self.examples.files if self.examples else ())

    def protocol(self, options: Options) -> Mapping[str, Any]:
        shots = self.shots_of(options)
        examples = self.examples or self.evaluated
        return {
            "lm_eval": lm_eval_version(),
            "task": self.asked,
            "split": self.evaluated.name,
            "shots": shots,
            "examples": f"{examples.name}, by seed {options.seed}" if shots else "none",
        }

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        shots = self.shots_of(options)
        with quiet():
            task = self.load(
                {
                    split.name: [Source(data.open(file), file) for file in split.files]
                    for split in self.splits(shots)
                }
            )
            task.set_fewshot_seed(options.seed)
            self.check_shots(shots, len(task.fewshot_docs()))
            return [
                self.item(task, number, document, shots)
                for number, document in enumerate(islice(task.eval_docs, options.limit))
            ]

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        likelihoods = [
            answer.log_likelihood for answer in answers if isinstance(answer, PairAnswer)
        ]
        lengths = item.about["lengths"]
        chosen = {
            "": first_largest(likelihoods),
            NORMALISED: first_largest([a / length for a, length in zip(likelihoods, lengths)]),
        }
        worth = {
            name: values[chosen[NORMALISED if name.endswith(NORMALISED) else ""]]
            for name, values in item.about["worth"].items()
        }
        return {"log_likelihoods": likelihoods, "worth": worth}

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        return [
            self.measure(name, [row["worth"][name] for row in records], options)
            for name in records[0]["worth"]
        ]

    def measure(self, name: str, values: Sequence[Any], options: Options) -> Measure:
        """The mean of numbers, or the F1 of classes of pairs (right, chosen)."""
        if isinstance(values[0], (int, float)):
            mean, error = mean_and_error([PERCENT * value for value in values])
            return Measure(name, mean, error, len(values), note="percent")
        error, interval = bootstrap(values, f1_of_classes, options.seed)
        value = f1_of_classes(values)
        return Measure(
            name, value, error, len(values), interval=interval, note="percent, mean of classes"
        )

    def check_shots(self, shots: int, nexamples: int) -> None:
        """Raises UserError where there are not that many examples besides the document itself."""
        most = nexamples if self.examples else nexamples - 1
        if not 0 <= shots <= most:
            raise UserError(
                f"`--shots` must be from 0 to the {most} examples that {self.name} has, but is {shots}. Set 0, say."
            )

    def shots_of(self, options: Options) -> int:
        return (self.shots or 0) if options.shots is None else options.shots

    def splits(self, shots: int) -> list[Split]:
        """Those whose files are read."""
        return [self.evaluated, *([self.examples] if self.examples and shots else [])]

    def item(self, task: Any, number: int, document: Mapping[str, Any], shots: int) -> Item:
        context = task.fewshot_context(document, num_fewshot=shots)
        instances = task.construct_requests(document, context, metadata=(self.asked, number, 1))
        choices = task.doc_to_choice(document)
        if len(choices) < 2 or not all(choices):
            raise self.fault(number, f"at least two choices, none of them empty, but has {choices}")
        judged = task.config.process_results is not None
        worth = (worth_by_task if judged else worth_by_label)(task, document, choices)
        if worth is None:
            raise self.fault(number, f"the label of one of {len(choices)} choices, but has another")
        return Item(
            f"{self.evaluated.name}:{number + 1}",
            tuple(Pair(*instance.args) for instance in instances),
            {"worth": worth, "lengths": [len(choice) for choice in choices]},
        )

    def fault(self, number: int, rule: str) -> UserError:
        return UserError(
            f"Document {number + 1} of {self.evaluated.files[0].path} must have {rule}. "
            "Get the file from its source again."
        )

    def load(self, files: Mapping[str, Sequence[Source]]) -> Any:
        """lm_eval's task on local files: split -> its files."""
        from datasets import disable_progress_bars
        from lm_eval.tasks import TaskManager

        disable_progress_bars()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{self.asked}.yaml")
            path.write_text(self.definition(self.asked, files))
            loaded = TaskManager(include_defaults=False).load(str(path))
        (task,) = loaded["tasks"].values()
        return task

    def definition(self, name: str, files: Mapping[str, Sequence[Source]]) -> str:
        """A task file of lm_eval's.

        Args:
            name: of the task.
            files: split -> its files.

        Raises:
            UserError: lm_eval is not installed.
        """
        lm_eval_version()
        spec = find_spec("lm_eval")
        assert spec is not None
        assert spec.origin is not None
        splits = {
            split.name: described(split.form, files[split.name], self.fields)
            for split in (self.evaluated, self.examples)
            if split is not None and split.name in files
        }
        values = {
            "include": str(Path(spec.origin).parent / "tasks" / self.place),
            "task": name,
            "dataset_kwargs": {"splits": splits},
            # As lm_eval's own files have them, of the splits that are here; where a document is evaluated and
            # example at once, lm_eval keeps it out of its own examples if fewshot_split is test_split.
            **{f"{key}_split": name if name in splits else None for key, name in SPLITS.items()},
            "fewshot_split": "test" if list(splits) == ["test"] else None,
        }
        # JSON is YAML; only the function has a tag.
        lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
        return "\n".join([*lines, f"custom_dataset: !function {READER}", ""])


SPLITS = {"training": "train", "validation": "validation", "test": "test"}  # lm_eval's key -> name
READER = "metaseq_plugin.evaluate.abilities.documents.datasets_of"


def lm_eval_version() -> str:
    """Raises UserError where lm_eval is not installed."""
    try:
        return version("lm-eval")
    except PackageNotFoundError as error:
        raise UserError(
            "lm_eval must be installed, whose task definitions are asked here, but is not. "
            "Install it: pip install 'metaseq-plugin[lm-eval]'."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """lm_eval warns of what its own task files leave to defaults."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def worth_by_label(
    task: Any, document: Mapping[str, Any], choices: Sequence[str]
) -> Optional[dict[str, list[Any]]]:
    """Metric -> what each choice is worth: 1 for the right one, or for F1 (right, chosen); None: none is right."""
    label = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    places = range(len(choices))
    right = choices.index(label) if label in choices else label
    if right not in places:
        return None
    return {
        name: [[right, place] if name == F1 else float(place == right) for place in places]
        for name in task.aggregation()
    }


def worth_by_task(
    task: Any, document: Mapping[str, Any], choices: Sequence[str]
) -> Optional[dict[str, list[Any]]]:
    """Metric -> for each choice what the task's own ``process_results`` gives if it is the likeliest."""
    found: dict[str, list[Any]] = {}
    for chosen in range(len(choices)):
        results = [(0.0 if place == chosen else -1.0, False) for place in range(len(choices))]
        for name, value in task.process_results(document, results).items():
            found.setdefault(name, []).append(float(value))
    return found


def first_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def f1_of_classes(pairs: Sequence[Sequence[int]]) -> float:
    """The mean, in percent, of 2 TP / (2 TP + FP + FN) of each class of pairs (right, chosen)."""
    found = []
    for label in range(3):
        hits = sum(right == chosen == label for right, chosen in pairs)
        named = sum((right == label) + (chosen == label) for right, chosen in pairs)
        found.append(2 * hits / named if named else 0.0)
    return PERCENT * sum(found) / len(found)
