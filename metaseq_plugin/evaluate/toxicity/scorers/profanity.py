"""``profanity``: alt-profanity-check's probability that a text is profane; the extra ``profanity``.

A linear model over words (the package alt-profanity-check; BSD, its weights come with it; Python 3.11 or later).
It tells profanity, and knows little of hate without it.
"""

from importlib import metadata
from typing import Any, Mapping, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.toxicity.scorers.checking import THRESHOLD, checked

DISTRIBUTIONS = ("alt-profanity-check", "scikit-learn")


class Profanity:
    """See ``task.Scorer``.

    Raises:
        UserError: the package is not installed.
    """

    measure = "profanity"
    threshold = THRESHOLD

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob
        except ModuleNotFoundError as error:
            raise UserError(
                f"`--scorer` profanity must find alt-profanity-check, but {error.name} is not installed. "
                "Install it: pip install 'metaseq-plugin[profanity]', on Python 3.11 or later."
            ) from error
        self.predict_prob = predict_prob
        versions = {name: metadata.version(name) for name in DISTRIBUTIONS}
        self.about: Mapping[str, Any] = {
            "kind": "profanity",
            "measure": self.measure,
            "name": DISTRIBUTIONS[0],
            "versions": versions,
        }

    def score(self, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        figures = [float(figure) for figure in self.predict_prob(list(texts))]
        return checked(figures, len(texts), DISTRIBUTIONS[0])
