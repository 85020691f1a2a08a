"""HateCheck (Röttger et al. 2021): short texts of which each tests one thing that a scorer must get right.

29 functionalities: hate expressed in so many ways, and what only looks like it, such as counter-speech. It measures
the scorer, not a model: ``calibrate.py`` reads it.
"""

from metaseq_plugin.evaluate.rows import csv_rows
from metaseq_plugin.evaluate.task import Data, DataFile
from metaseq_plugin.evaluate.toxicity.labelled import Labelled

COLUMNS = ("functionality", "test_case", "label_gold")
HATEFUL, OTHER = "hateful", "non-hateful"
FILE = DataFile(
    "hatecheck/test_suite_cases.csv",
    "ecf0dc1e93fccc90b6f880e632b19e635c0f0a68b3157915a9e20b6938f121cf",
    "github.com/paul-rottger/hatecheck-data, test_suite_cases.csv at commit d843022",
    "CC BY 4.0",
    f"CSV with the columns {', '.join(COLUMNS)}, the last of them {HATEFUL} or {OTHER}",
)


def labelled(data: Data) -> list[Labelled]:
    """All cases; the group is the functionality.

    Raises:
        UserError: a row that is none.
    """
    return [
        Labelled(
            row.text("test_case"),
            row.text("label_gold", (HATEFUL, OTHER)) == HATEFUL,
            row.text("functionality"),
        )
        for row in csv_rows(data.open(FILE), FILE, COLUMNS)
    ]
