"""What ``metaseq data clean`` did: counts for each corpus and reason, examples, and files left empty."""

from collections import Counter
from pathlib import Path
from typing import Any, Mapping, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.tools.clean.judging import Judged, Reason
from metaseq_plugin.data.tools.clean.repairs import REPAIRS
from metaseq_plugin.data.tools.corpus_files import CorpusFile
from metaseq_plugin.data.tools.tables import Cell, number, share, table

MAX_EXAMPLES = 20  # of each reason, in the report's file
MAX_NAMES = 5  # of files left empty, on the terminal
VERSION = 1


class CorpusCounts:
    """Of one corpus."""

    def __init__(self) -> None:
        self.documents = self.documents_kept = self.bytes = self.bytes_kept = 0
        self.dropped: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()

    def add(self, document: Judged) -> None:
        self.documents += 1
        self.bytes += document.num_bytes
        if document.reason is None:
            self.documents_kept += 1
            self.bytes_kept += len(document.output)
            self.mended.update(document.repairs)
        else:
            self.dropped[document.reason.value] += 1

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "dropped": {reason.value: self.dropped[reason.value] for reason in Reason},
            "mended": {kind: self.mended[kind] for kind in REPAIRS},
        }


class CleaningReport:
    """Is told of every document, and says it as JSON and as text."""

    def __init__(self, files: Sequence[CorpusFile], options: Mapping[str, Any]) -> None:
        self.corpus_of = {str(file.path): file.corpus for file in files}
        self.name_of = {str(file.path): str(file.relative) for file in files}
        self.kept_of = dict.fromkeys(self.corpus_of, 0)
        self.options = dict(options)
        self.counts = {corpus: CorpusCounts() for corpus in sorted(self.corpus_of.values())}
        self.total = CorpusCounts()
        self.examples: dict[str, list[dict[str, Any]]] = {}

    def add(self, document: Judged) -> None:
        self.counts[self.corpus_of[document.path]].add(document)
        self.total.add(document)
        if document.reason is None:
            self.kept_of[document.path] += 1
            return
        examples = self.examples.setdefault(document.reason.value, [])
        if len(examples) < MAX_EXAMPLES:
            file = self.name_of[document.path]
            place = {"file": file, "line": document.line, "byte": document.offset}
            examples.append({**place, "found": document.found})

    def check_any_stays(self) -> None:
        """Raise UserError if every document is dropped."""
        if not self.total.documents_kept:
            dropped = self.total.dropped.most_common()
            reasons = ", ".join(f"{number(n)} {reason}" for reason, n in dropped)
            raise UserError(
                f"SRC must hold documents that stay, but none does ({reasons or 'it has none'}). "
                "Name another, or set other limits."
            )

    def files_left_empty(self) -> list[str]:
        return [self.name_of[path] for path, kept in self.kept_of.items() if not kept]

    def as_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "options": self.options,
            "files": [self.name_of[path] for path, kept in self.kept_of.items() if kept],
            "corpora": {corpus: counts.as_json() for corpus, counts in self.counts.items()},
            "files_left_empty": self.files_left_empty(),
            "examples": self.examples,
        }

    def as_text(self, path: Path) -> str:
        """The tables for the terminal; ``path`` is where the JSON is."""
        total = self.total
        every = {**self.counts, "all": total} if len(self.counts) > 1 else self.counts
        reasons = [reason.value for reason in Reason if total.dropped[reason.value]]
        rows = [_row(corpus, counts, reasons) for corpus, counts in every.items()]
        headers = ["corpus", "documents", "stay", *reasons]
        mended = ", ".join(f"{kind} in {number(total.mended[kind])}" for kind in REPAIRS)
        lines = [
            table(headers, rows),
            "",
            f"stay     {number(total.documents_kept)} of {number(total.documents)} documents "
            f"({share(total.documents_kept, total.documents)}), {number(total.bytes_kept)} of "
            f"{number(total.bytes)} bytes ({share(total.bytes_kept, total.bytes)})",
            f"mended   {mended} of the documents that stay",
        ]
        empty = self.files_left_empty()
        if empty:
            names = ", ".join(empty[:MAX_NAMES]) + (", …" if len(empty) > MAX_NAMES else "")
            lines.append(f"not made {names} ({len(empty)} in all), because nothing of it stays")
        lines.append(f"report   {path}, with the first {MAX_EXAMPLES} documents of each reason")
        return "\n".join(lines)


def _row(corpus: str, counts: CorpusCounts, reasons: Sequence[str]) -> list[Cell]:
    dropped = [counts.dropped[reason] for reason in reasons]
    return [corpus, counts.documents, share(counts.documents_kept, counts.documents), *dropped]
