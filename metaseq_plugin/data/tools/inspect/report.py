"""What ``metaseq data inspect`` says: a census as tables for the terminal, and as JSON."""

import math
from typing import Any, Iterable, Optional

from metaseq_plugin.data.tools.inspect.census import MAX_FAULTS, Census, CorpusCensus
from metaseq_plugin.data.tools.inspect.lengths import Lengths
from metaseq_plugin.data.tools.tables import Cell, number, share, table

VERSION = 1
MAX_CORPORA = 20  # rows of the table
MAX_FAULT_ROWS = 20
MAX_FOUND = 120  # characters


def as_json(census: Census, tokenizer: Optional[str]) -> dict[str, Any]:
    """All numbers."""
    return {
        "version": VERSION,
        "tokenizer": tokenizer,
        "tokens_are_exact": census.has_tokens and census.is_exact,
        "copies": census.copies,
        "length_unit": census.unit,
        "corpora": {name: _corpus_as_json(census, corpus) for name, corpus in census.corpora.items()},
        "longest": [long._asdict() for long in census.longest],
        "failing": [fault._asdict() for fault in census.faults],
    }  # fmt: skip


def _corpus_as_json(census: Census, corpus: CorpusCensus) -> dict[str, Any]:
    names = ("split", "documents", "bytes", "empty", "failing", "copies", "in_train")
    content = {name: vars(corpus)[name] for name in names}
    if census.has_tokens:
        content["tokens"] = _rounded(corpus.tokens)
        content["tokens_may_be_off_by"] = _rounded(corpus.tokens_error)
        content["documents_tokenised"] = corpus.sampled
    return {**content, "lengths": corpus.lengths.as_json()}


def _rounded(value: float) -> Optional[int]:
    return None if math.isnan(value) else round(value)


def as_text(census: Census, tokenizer: Optional[str]) -> str:
    """The tables, one below the other."""
    parts = [
        _corpora_table(census),
        _tokens_line(census, tokenizer),
        Lengths.sum_of(census.lengths().values()).as_text(census.unit),
        _longest_table(census),
        "\n".join(_copies_lines(census)),
        _faults_table(census),
    ]
    return "\n\n".join(parts)


def _corpora_table(census: Census) -> str:
    corpora = list(census.corpora.values())
    by_size = sorted(corpora, key=lambda corpus: -corpus.bytes)
    shown = {corpus.name for corpus in by_size[:MAX_CORPORA]}
    rows = [_row(census, corpus.name, [corpus]) for corpus in corpora if corpus.name in shown]
    others = by_size[MAX_CORPORA:]
    if others:
        rows.append(_row(census, f"{len(others)} others", others))
    if len(corpora) > 1:
        rows.append(_row(census, "all", corpora))
    headers = ["corpus", "documents", "share", "bytes", "share"]
    if census.has_tokens:
        headers += ["tokens", *([] if census.is_exact else ["±"]), "share"]
    unit = "tokens" if census.has_tokens else "bytes"
    return table([*headers, f"{unit}/document", "copies", "empty", "failing"], rows)


def _total(field: str, corpora: Iterable[CorpusCensus]) -> int:
    return sum(vars(corpus)[field] for corpus in corpora)


def _row(census: Census, name: str, corpora: list[CorpusCensus]) -> list[Cell]:
    everything = census.corpora.values()
    documents, num_bytes = _total("documents", corpora), _total("bytes", corpora)
    row: list[Cell] = [name, documents, share(documents, _total("documents", everything))]
    row += [num_bytes, share(num_bytes, _total("bytes", everything))]
    mean = num_bytes / documents if documents else math.nan
    if census.has_tokens:
        tokens = sum(corpus.tokens for corpus in corpora)
        error = math.sqrt(sum(corpus.tokens_error**2 for corpus in corpora))
        row += [_count(tokens)]
        row += [] if census.is_exact else [_count(error)]
        every_token = sum(corpus.tokens for corpus in everything)
        row += ["" if math.isnan(every_token) else share(tokens, every_token)]
        mean = tokens / documents if documents else math.nan
    is_all = len(corpora) == len(everything)
    copies = census.copies if is_all else _total("copies", corpora)
    row += [_count(mean), copies, _total("empty", corpora), _total("failing", corpora)]
    return row


def _count(value: float) -> str:
    return "unknown" if math.isnan(value) else number(round(value))


def _tokens_line(census: Census, tokenizer: Optional[str]) -> str:
    if tokenizer is None:
        return (
            "Tokens are not counted, because DATA holds no tokenizer: name one with --opt-bpe-vocab and "
            "--opt-bpe-merges, or --opt-sentencepiece-model."
        )
    if census.is_exact:
        return f"Tokens are those of {tokenizer} with </s>, exactly."
    sampled = _total("sampled", census.corpora.values())
    documents = _total("documents", census.corpora.values())
    return (
        f"Tokens are those of {tokenizer} with </s>, estimated from {number(sampled)} documents "
        f"({share(sampled, documents)}); ± is two standard errors."
    )


def _longest_table(census: Census) -> str:
    rows: list[list[Cell]] = [
        [f"line {number(long.line)} of {long.path}", long.length] for long in census.longest
    ]
    return table(["longest documents", census.unit], rows)


def _copies_lines(census: Census) -> list[str]:
    documents = _total("documents", census.corpora.values())
    lines = [
        f"copies     {number(census.copies)} of {number(documents)} documents "
        f"({share(census.copies, documents)}) have the text of an earlier one"
    ]
    lines += [
        f"in train   {number(corpus.in_train)} of {number(corpus.documents)} documents of {corpus.name}"
        for corpus in census.corpora.values()
        if corpus.in_train is not None
    ]
    return lines


def _faults_table(census: Census) -> str:
    failing = _total("failing", census.corpora.values())
    if not failing:
        return "failing    nothing: every document can be read"
    rows: list[list[Cell]] = [
        [fault.path, fault.line, fault.offset, f"{fault.found}, must be {fault.rule}"[:MAX_FOUND]]
        for fault in census.faults[:MAX_FAULT_ROWS]
    ]
    lines = [
        f"failing    {number(failing)} documents or files: training stops there, or leaves them out with "
        "--skip-bad-documents",
        "",
        table(["file", "line", "byte", "what it is"], rows, num_bars=1),
    ]
    if failing > MAX_FAULT_ROWS:
        lines.append(
            f"… and {number(failing - MAX_FAULT_ROWS)} more; --report has the first {MAX_FAULTS:,}"
        )
    return "\n".join(lines)
