"""WikiText-2: how well does the model predict articles? Perplexity per word and per byte.

    metaseq eval --path runs/quickstart --data eval-data wikitext-tokenised

(1) The file is divided into its articles, as lm_eval's data are: a line `` = Title = `` begins one.
(2) The spaces that WikiText's tokenisation put around punctuation are taken out (``RULES``), as lm_eval does, and the
    model reads what is left, window after window.
(3) The log-likelihoods of all articles are divided by the words and bytes of the articles as the file has them, so that
    figures of models with other tokens can be compared.

There are two files of the same articles. The raw one has all their words, and lm_eval's figures are of it. The
tokenised one has ``<unk>`` for rare words: its perplexity is another number, and the measures' notes say so.
"""

import math
import re
from typing import Any, Callable, Mapping, Optional, Sequence

from metaseq_plugin.evaluate.requests import Answer, Whole, WholeAnswer
from metaseq_plugin.evaluate.rows import lines_of
from metaseq_plugin.evaluate.statistics import bootstrap, perplexity
from metaseq_plugin.evaluate.task import Data, DataFile, Item, Measure, Options, Record

TITLE = re.compile(r" = (?!= ).*(?<! =) = ")
FORM = "WikiText's text, an article's title in a line of its own as ` = Title = `"
LICENCE = "CC BY-SA 3.0 and GFDL"

RAW = DataFile(
    "wikitext-2-raw/wiki.test.raw",
    None,
    "Hugging Face, Salesforce/wikitext, wikitext-2-raw-v1, split test",
    LICENCE,
    FORM,
)
TOKENISED = DataFile(
    "wikitext-2/test.txt",
    "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    "github.com/pytorch/examples, word_language_model/data/wikitext-2/test.txt",
    LICENCE,
    FORM,
)

# What lm_eval's task does to an article, in its order: a text for another, or a pattern for what it matched within.
RULES: Sequence[tuple[str, str]] = (
    (r"s '", "s'"),
    (r"/' [0-9]/", "/'[0-9]/"),  # without effect on WikiText, and kept
    *((rf" @{sign}@ ", mark) for sign, mark in (("-", "-"), (",", ","), (r"\.", "."))),
    *((rf" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),
    *(
        (rf"{opening}\s*([^{closing}]*?)\s*{closing}", rf"{shown[0]}\1{shown[-1]}")
        for opening, closing, shown in (
            (r"\(", r"\)", "()"),
            (r"\[", r"\]", "[]"),
            ("{", "}", "{}"),
            ('"', '"', '"'),
            ("'", "'", "'"),
        )
    ),
    *((" ".join("=" * count), "=" * count) for count in (4, 3, 2)),
    (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


class WikiText:
    """Perplexity of WikiText-2's test articles, raw (Merity et al. 2017, arXiv 1609.07843).

    Measures:
        word_perplexity: exp of the negative log-likelihood of all articles over their words, between blanks.
        byte_perplexity: the same over their bytes of UTF-8.
        bits_per_byte: the binary logarithm of the latter.
    """

    name = "wikitext"
    title = "WikiText-2, raw"
    source = "Merity et al. 2017, arXiv 1609.07843; as lm_eval's wikitext"
    files: tuple[DataFile, ...] = (RAW,)
    needs_scorer = False
    shots: Optional[int] = None
    note = ""

    def protocol(self, options: Options) -> Mapping[str, Any]:
        return {
            "file": self.files[0].path,
            "articles": "each from its title on",
            "text": "detokenised as in lm_eval's wikitext 2.0",
            "words": r"parts between \s+ of the article as the file has it",
            "shots": 0,
        }

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        (file,) = self.files
        found = articles(lines_of(data.open(file), file))
        return [
            Item(
                f"article:{number}",
                (Whole(detokenised(article)),),
                {
                    "nwords": len(re.split(r"\s+", article)),
                    "nbytes": len(article.encode()),
                },
            )
            for number, article in enumerate(found, 1)
        ]

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        (answer,) = answers
        assert isinstance(answer, WholeAnswer)
        return {
            **item.about,
            "log_likelihood": answer.log_likelihood,
            "ntokens": answer.ntokens,
            "nwindows": answer.nwindows,
        }

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        figures: Mapping[str, Callable[[Sequence[Record]], float]] = {
            "word_perplexity": lambda rows: perplexity(nats_per(rows, "nwords")),
            "byte_perplexity": lambda rows: perplexity(nats_per(rows, "nbytes")),
            "bits_per_byte": lambda rows: nats_per(rows, "nbytes") / math.log(2),
        }
        found = []
        for name, figure in figures.items():
            error, interval = bootstrap(records, figure, options.seed)
            found.append(
                Measure(
                    name,
                    figure(records),
                    error,
                    len(records),
                    interval=interval,
                    note=self.note,
                )
            )
        return found


class TokenisedWikiText(WikiText):
    """The same of the tokenised file, whose rare words are ``<unk>``."""

    name = "wikitext-tokenised"
    title = "WikiText-2, tokenised"
    files = (TOKENISED,)
    note = "of the tokenised file, whose rare words are <unk>: not lm_eval's wikitext"


def articles(lines: Sequence[str]) -> list[str]:
    """The articles of a file, each from its title on; what stands before the first title is one, too."""
    found: list[list[str]] = [[]]
    for line in lines:
        if TITLE.fullmatch(line):
            found.append([])
        found[-1].append(line)
    joined = ("\n".join(lines) for lines in found)
    return [article for article in joined if article.strip()]


def detokenised(article: str) -> str:
    for pattern, replacement in RULES:
        article = re.sub(pattern, replacement, article)
    return article


def nats_per(records: Sequence[Record], unit: str) -> float:
    """The negative log-likelihood of all records over all their units."""
    likelihood = math.fsum(row["log_likelihood"] for row in records)
    return -likelihood / sum(row[unit] for row in records)
