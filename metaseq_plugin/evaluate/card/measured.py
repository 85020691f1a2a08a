"""The sections on what was measured: a table a task, the nearest published number beside; and the limits.

A harm that was not measured is named as such: a card without figures says so.
"""

from typing import Iterator

from metaseq_plugin.evaluate.card.facts import Facts
from metaseq_plugin.evaluate.card.markdown import code, listed, plain_text, table
from metaseq_plugin.evaluate.card.training import fields
from metaseq_plugin.evaluate.figures import measured, spoken
from metaseq_plugin.evaluate.published import nearest
from metaseq_plugin.evaluate.results import Results
from metaseq_plugin.evaluate.table import average
from metaseq_plugin.evaluate.tables import Table, tables
from metaseq_plugin.evaluate.task import OVERALL
from metaseq_plugin.evaluate.tasks import GROUPS, TASKS
from metaseq_plugin.ledger.account import FINISHED

HARMS = "harms"
ABILITIES = "abilities."  # where the modules of the tasks are that measure no harm
HEADS = ["measure", "group", "value ± standard error [95 %]", "n", "published, of the nearest OPT"]
NOTHING = "Not measured."


def is_harm(table: Table) -> bool:
    return not TASKS.get(table.name, ABILITIES).startswith(ABILITIES)


def every_table(facts: Facts) -> list[Table]:
    return [table for results in facts.results.values() for table in tables([results])]


def abilities(facts: Facts) -> list[str]:
    lines = sections([table for table in every_table(facts) if not is_harm(table)], facts)
    averages = [line for results in facts.results.values() for line in average(results)]
    return [*lines, *listed(averages)]


def harms(facts: Facts) -> list[str]:
    return sections([table for table in every_table(facts) if is_harm(table)], facts)


def sections(found: list[Table], facts: Facts) -> list[str]:
    lines = [line for each in found for line in section(each, facts.num_parameters)]
    return lines or [NOTHING]


def section(of: Table, num_parameters: int) -> list[str]:
    """One task: source, table, and where the published numbers stand."""
    rows, cited = [], {}
    for row in of.rows:
        (measure,) = row.measured
        assert measure is not None, "a row of one model's table is of its own"
        published = nearest(of.name, row.measure, row.group, num_parameters)
        if published is not None:
            cited[published.cited] = published.model
        beside = "" if published is None else f"{published.text} ({published.model})"
        group = "" if row.group == OVERALL else plain_text(row.group)
        rows.append([plain_text(spoken(row.measure)), group, measured(measure), f"{measure.n:,}", beside])  # fmt: skip
    sources = [f"{model} published: {source}." for source, model in cited.items()]
    notes = [*of.notes, *of.counts, *sources]
    return [
        f"### {plain_text(of.title)}",
        "",
        plain_text(of.source),
        "",
        *table(HEADS, rows),
        "",
        *listed(map(plain_text, notes)),
        *([""] if notes else []),
    ]


def sources(facts: Facts) -> list[str]:
    """The files of results, in which prompts, items and data are told."""
    if not facts.results:
        return ["There are none: nothing was measured for this card."]
    lines = [f"{code(name)}, SHA-256 {code(digest)}" for name, digest in facts.digests.items()]
    return [
        "Prompts, shots, seeds, ids of the items and checksums of the data stand in",
        "",
        *listed(lines),
    ]


def limits(facts: Facts) -> list[str]:
    return listed(sentences(facts))


def sentences(facts: Facts) -> Iterator[str]:
    """What the figures above do not say."""
    yield f"It reads and writes at most {facts.model.cfg.decoder_max_positions:,} tokens together."
    yield "What it writes may be false, offensive or harmful, and may repeat what it learned from word for word."
    done = {task for results in facts.results.values() for task in results.tasks}
    missing = [name for name in GROUPS[HARMS] if name not in done]
    if missing:
        yield f"These harms were not measured: {', '.join(missing)}."
    if done:
        yield (
            "Each figure is of one set of data and one way to ask. A low figure does not mean that a harm is absent; "
            "metaseq-plugin's docs/harms.md says what each measures, and what it does not."
        )
        yield "Published numbers were measured by others; their prompts, formulas and data may differ."
    for file in facts.strangers:
        yield (
            f"The figures of {code(file)} were measured of other weights or settings than those here, as of an "
            "earlier checkpoint."
        )
    for file, results in facts.results.items():
        yield from of_results(file, results)
    yield "Memorised texts and personal data in what it writes were not measured."
    account = facts.account
    if account is None:
        yield "What it was trained on, and how, is unknown here."
    else:
        if account.state != FINISHED:
            yield f"Its run had not finished: {plain_text(account.state)} at update {account.update:,}."
        if fields(account.what, "git").get("is_dirty"):
            yield "The code of its run had changes that were not committed."
        yield from map(plain_text, account.problems)


def of_results(file: str, results: Results) -> Iterator[str]:
    limit, scorer = results.options.get("limit"), results.options.get("scorer")
    if limit is not None:
        yield f"The figures of {code(file)} are over the first {limit:,} items of each task only."
    if scorer:
        yield f"Texts were judged by {plain_text(str(scorer.get('name', scorer)))}, which errs itself."
    for task, reason in results.left_out.items():
        yield f"{plain_text(task)} was left out of {code(file)}: {plain_text(reason)}"
