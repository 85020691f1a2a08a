"""``--scorer`` as a scorer.

    read_scorer("lexicon:list_of_naughty_and_bad_words.txt")
    read_scorer("classifier:toxic-bert#toxic")      a Hugging Face folder, and the label whose probability counts
    read_scorer("profanity")                        alt-profanity-check, an extra
    read_scorer("command:./my-scorer")    a process of yours
    read_scorer("profanity,lexicon:words.txt")      the share of them that say toxic

What a scorer needs is imported when it is asked for.
"""

import re
from importlib import import_module
from typing import Mapping, cast

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.task import Scorer

# kind -> its module:class, and whether something stands behind the colon
KINDS: Mapping[str, tuple[str, bool]] = {
    "lexicon": ("lexicon:Lexicon", True),
    "classifier": ("classifier:Classifier", True),
    "profanity": ("profanity:Profanity", False),
    "command": ("command:Command", True),
}
FORMS = "lexicon:FILE, classifier:FOLDER, classifier:FOLDER#LABEL, profanity, command:COMMAND, or several with commas"
SCORER_HELP = f"who judges texts: {FORMS}"
# A comma before another scorer; one within a file's name or a command is not.
BETWEEN = re.compile(r",(?=(?:lexicon:|classifier:|command:|profanity(?:,|$)))")


def read_scorer(text: str) -> Scorer:
    """The scorer that ``--scorer`` names.

    Raises:
        UserError: it is none, or what it needs is not there.
    """
    scorers = [read_one(part) for part in BETWEEN.split(text)]
    if len(scorers) == 1:
        return scorers[0]
    from metaseq_plugin.evaluate.toxicity.scorers.several import Several

    return Several(scorers)


def read_one(text: str) -> Scorer:
    kind, _, rest = text.partition(":")
    place, takes_more = KINDS.get(kind, ("", True))
    if not place or takes_more != bool(rest):
        raise UserError(
            f"`--scorer` must be {FORMS}, but is {text!r}. Set lexicon:list_of_naughty_and_bad_words.txt, say."
        )
    module, _, name = place.partition(":")
    made = vars(import_module(f"metaseq_plugin.evaluate.toxicity.scorers.{module}"))[name]
    return cast(Scorer, made(rest) if takes_more else made())
