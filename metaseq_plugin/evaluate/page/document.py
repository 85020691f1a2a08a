"""The body of the page: what was measured, a section with a table for each task, and how it was asked.

    body([results])         # HTML; every text is escaped where the tree is written

A measured cell is value ± standard error, or [interval]; n stands below its column's head where all rows share
it, else in the cell. Published columns stand behind, and their sources below the table.
"""

import json
from typing import Any, Callable, Iterable, Optional, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from metaseq_plugin.evaluate.figures import NONE, parameters, plain, shown, spoken, uncertainty
from metaseq_plugin.evaluate.results import Results, TaskResult
from metaseq_plugin.evaluate.table import average
from metaseq_plugin.evaluate.tables import Row, Table, model_names, tables

FACTS = {
    "path": "Path",
    "checkpoint": "Checkpoint",
    "num_parameters": "Parameters",
    "dtype": "Computed in",
    "device": "On",
    "longest": "Reads at most, in tokens",
    "fingerprint": "Fingerprint",
}
LEGEND = (
    "A figure of a measured model is its value ± one standard error, with its interval of 95 % in brackets where one is known, over n items. "
    "Published numbers were measured by others, with prompts, formulas and data that may differ."
)


def title(results: Sequence[Results]) -> str:
    return f"{', '.join(model_names(results))} – metaseq eval"


def body(results: Sequence[Results]) -> str:
    """All of it, of at least one model."""
    root, every = Element("body"), tables(results)
    header = add(root, "header")
    add(header, "h1", f"Evaluation of {', '.join(model_names(results))}")
    add(header, "p", LEGEND, **{"class": "hint"})
    nav = add(header, "nav", **{"aria-label": "Tasks"})
    for table in every:
        add(nav, "a", table.title, href=f"#{table.name}")
    main = add(root, "main")
    models(main, results)
    for table in every:
        section(main, table)
    of_results(main, "Average", results, average)
    of_results(main, "Left out", results, left_out)
    return tostring(root, encoding="unicode", method="html")


def add(parent: Element, tag: str, text: Optional[str] = None, **attributes: str) -> Element:
    """A new last child of ``parent``."""
    child = SubElement(parent, tag, attributes)
    child.text = text
    return child


def models(main: Element, results: Sequence[Results]) -> None:
    """What each model is, and what it was asked with: a column for each."""
    part = add(main, "section", id="models")
    add(part, "h2", "Models" if len(results) > 1 else "Model")
    frame = framed(part, "Models")
    head = add(add(frame, "thead"), "tr")
    add(head, "td")
    for name in model_names(results):
        add(head, "th", name, scope="col", **{"class": "measured"})
    said = [facts(each) for each in results]
    rows = add(frame, "tbody")
    for label in dict.fromkeys(label for each in said for label in each):
        line = add(rows, "tr")
        add(line, "th", label, scope="row")
        for each in said:
            add(line, "td", each.get(label, NONE))


def facts(each: Results) -> dict[str, str]:
    """Label -> text; what is not known is left out."""
    number = each.model.get("num_parameters")
    said = {label: each.model.get(key) for key, label in FACTS.items()}
    if isinstance(number, int):
        said[FACTS["num_parameters"]] = f"{number:,} ({parameters(number)})"
    options = {key: value for key, value in each.options.items() if value is not None}
    said.update({"Options": options, "Versions": each.versions})
    return {label: plain(value) for label, value in said.items() if value not in (None, "", {})}


def framed(part: Element, label: str) -> Element:
    """A table that scrolls sideways where it is wider than the page."""
    frame = add(part, "div", tabindex="0", role="region", **{"class": "frame", "aria-label": label})
    table = add(frame, "table")
    add(table, "caption", label)
    return table


def section(main: Element, table: Table) -> None:
    part = add(main, "section", id=table.name)
    add(part, "h2", table.title)
    add(part, "p", table.source, **{"class": "hint source"})
    if table.problems:
        problems = add(part, "ul", **{"class": "problems"})
        for sentence in table.problems:
            add(problems, "li", sentence)
    figures(framed(part, f"{table.title}, measured and published"), table)
    listed(part, [*table.notes, *table.counts, *table.citations])
    protocol(part, table)


def figures(element: Element, table: Table) -> None:
    """The rows; a line stands where another measure begins."""
    element.set("class", "figures")
    head = add(add(element, "thead"), "tr")
    add(head, "th", "measure", scope="col", **{"class": "label"})
    if table.has_groups:
        add(head, "th", "group", scope="col", **{"class": "label"})
    sizes = [common_n(table, place) for place in range(len(table.found))]
    for name, size in zip(table.found, sizes):
        cell = add(head, "th", name, scope="col", **{"class": "measured"})
        if size is not None:
            add(cell, "br")
            add(cell, "small", f"n {size:,}")
    for model in table.published:
        cell = add(head, "th", model, scope="col", **{"class": "published"})
        add(cell, "br")
        add(cell, "small", "published")
    rows = add(element, "tbody")
    before = ""
    for row in table.rows:
        line = add(rows, "tr", **({"class": "first"} if before and row.measure != before else {}))
        fill(line, row, table.has_groups, sizes)
        before = row.measure


def fill(line: Element, row: Row, has_groups: bool, sizes: Sequence[Optional[int]]) -> None:
    add(line, "th", spoken(row.measure), scope="row")
    if has_groups:
        add(line, "th", row.group, scope="row")
    for measure, size in zip(row.measured, sizes):
        cell = add(line, "td", NONE if measure is None else shown(measure.value))
        if measure is not None:
            words = [uncertainty(measure), "" if size is not None else f"n {measure.n:,}"]
            small = add(cell, "small", ", ".join(word for word in words if word))
            cell.text = f"{cell.text} " if small.text else cell.text
    for number in row.published:
        add(line, "td", NONE if number is None else number.text, **{"class": "published"})


def common_n(table: Table, place: int) -> Optional[int]:
    """Over how many items every figure of a column is; None: not over as many."""
    sizes = {measure.n for row in table.rows if (measure := row.measured[place])}
    return sizes.pop() if len(sizes) == 1 else None


def of_results(
    main: Element,
    heading: str,
    results: Sequence[Results],
    said: Callable[[Results], Iterable[str]],
) -> None:
    """A section of what is ``said`` of each model; none where nothing is."""
    lines = [f"{name}: {line}" for name, each in zip(model_names(results), results) for line in said(each)]  # fmt: skip
    if lines:
        part = add(main, "section")
        add(part, "h2", heading)
        listed(part, lines)


def left_out(results: Results) -> list[str]:
    """Tasks of a group that did not run, and why."""
    return [f"{task}. {reason}" for task, reason in results.left_out.items()]


def listed(part: Element, sentences: Iterable[str]) -> None:
    found = list(sentences)
    if found:
        notes = add(part, "ul", **{"class": "notes"})
        for sentence in found:
            add(notes, "li", sentence)


def protocol(part: Element, table: Table) -> None:
    """How each model was asked, and of what data, in a fold."""
    for name, result in table.found.items():
        fold = add(part, "details")
        of = f" of {name}" if len(table.found) > 1 else ""
        add(fold, "summary", f"Protocol and data{of}")
        add(fold, "pre", json.dumps(asked(result), indent=2, ensure_ascii=False))


def asked(result: TaskResult) -> dict[str, Any]:
    """In JSON, with the items and files that repeat it."""
    return {
        "protocol": result.protocol,
        "items": {"n": result.n, "sha256 of ids": result.items},
        "data, sha256": result.data,
    }
