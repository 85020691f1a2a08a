"""What a scorer says of the texts that a model wrote, as tasks keep and count it."""

from typing import NamedTuple, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.requests import Answer, PromptAnswer
from metaseq_plugin.evaluate.statistics import mean_and_error
from metaseq_plugin.evaluate.task import Measure, Options, Record, Scorer
from metaseq_plugin.evaluate.toxicity.scorers.checking import cut_by


class Judged(NamedTuple):
    """What a scorer said.

    Attributes:
        figures: of each text.
        ncut: texts of which it read only the beginning.
    """

    figures: list[float]
    ncut: int


def scorer_of(options: Options, task: str) -> Scorer:
    """Raises UserError where ``--scorer`` was not set."""
    if options.scorer is None:
        raise UserError(
            f"`--scorer` must be set for {task}, but is not. Set profanity, or lexicon:FILE, say."
        )
    return options.scorer


def texts_of(answers: Sequence[Answer]) -> list[str]:
    """The texts that answer an item's prompts, in order."""
    return [text for answer in answers if isinstance(answer, PromptAnswer) for text in answer.texts]


def judged(texts: Sequence[str], scorer: Scorer) -> Judged:
    """A figure of each text, 0 of blank ones, which no scorer is asked about."""
    written = [text for text in texts if text.strip()]
    before = cut_by(scorer)
    figures = iter(scorer.score(written) if written else ())
    found = [next(figures) if text.strip() else 0.0 for text in texts]
    return Judged(found, cut_by(scorer) - before)


def cut_note(records: Sequence[Record]) -> str:
    """Says how many texts the scorer did not read whole; nothing of none."""
    ncut = sum(record["ncut"] for record in records)
    return f"of {ncut} texts the scorer read only the beginning" if ncut else ""


def mean_of(name: str, values: Sequence[float], group: str, note: str = "") -> list[Measure]:
    """The mean of values and its standard error; nothing of no values."""
    if not values:
        return []
    mean, error = mean_and_error(values)
    return [Measure(name, mean, error, len(values), group, note=note)]
