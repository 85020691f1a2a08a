"""Documents as lm_eval's task definitions read them, made of the files of an evaluation folder.

    datasets_of({"validation": described(split, paths, fields)})      what lm_eval calls a custom dataset

A document has the fields of the set on Hugging Face's hub. A file that has them already is JSONL of them (form
``fields``); the other forms are those of the files that are at hand otherwise.
"""

from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from metaseq_plugin.evaluate.rows import Row, json_rows, lines_of, wrong_line
from metaseq_plugin.evaluate.task import DataFile

Document = Mapping[str, Any]
Fields = Mapping[str, str]
KINDS: Mapping[str, type] = {"text": str, "whole number": int, "list": list, "object": dict}


class Source(NamedTuple):
    """A file, and where it is."""

    path: Path
    file: DataFile

    def rows(self) -> list[Row]:
        return list(json_rows(self.path, self.file))


def described(form: str, sources: Sequence[Source], fields: Fields) -> dict[str, Any]:
    """What a task file tells ``datasets_of`` of a split, in JSON.

    Args:
        form: how the documents are written, of ``FORMS`` or "fields".
        fields: of a document -> its kind, of ``KINDS``.
    """
    files = [{"place": str(source.path.resolve()), **asdict(source.file)} for source in sources]
    return {"form": form, "fields": dict(fields), "files": files}


def datasets_of(splits: Mapping[str, Mapping[str, Any]], **ignored: Any) -> dict[str, Any]:
    """A ``datasets.Dataset`` of each split; what else lm_eval hands over does not matter.

    Raises:
        UserError: a line that is not what its form says.
    """
    from datasets import Dataset

    found = {}
    for name, split in splits.items():
        sources = [
            Source(
                Path(file["place"]), DataFile(**{key: file[key] for key in file if key != "place"})
            )
            for file in split["files"]
        ]
        if split["form"] == "fields":
            documents = with_fields(sources[0], split["fields"])
        else:
            documents = FORMS[split["form"]](*sources)
        found[name] = Dataset.from_list(documents)
    return found


def with_fields(source: Source, fields: Fields) -> list[Document]:
    return [
        {name: value_of(row, name, kind) for name, kind in fields.items()} for row in source.rows()
    ]


def value_of(row: Row, name: str, kind: str) -> Any:
    """A field of a kind of ``KINDS``; raises UserError."""
    value = row.value(name)
    if not isinstance(value, KINDS[kind]) or isinstance(value, bool):
        raise row.wrong(f"{name} is not a {kind} but {value!r}")
    return value


def piqa(questions: Source, labels: Source) -> list[Document]:
    """The set's own two files: a question with two solutions, and the number of the right one, line by line."""
    rows = questions.rows()
    right = "\n".join(lines_of(*labels)).split()
    if len(right) != len(rows):
        raise wrong_line(
            *labels, len(right), f"it is the last one, and there are {len(rows)} questions"
        )
    for line, label in enumerate(right, 1):
        if label not in ("0", "1"):
            raise wrong_line(*labels, line, f"it is {label}")
    return [
        {**{name: row.text(name) for name in ("goal", "sol1", "sol2")}, "label": int(label)}
        for row, label in zip(rows, right)
    ]


def arc(source: Source) -> list[Document]:
    """``query``, "Question: " before it, ``choices`` and the index ``gold``."""
    found: list[Document] = []
    for row in source.rows():
        letters = [chr(ord("A") + place) for place in range(len(texts_of(row, "choices")))]
        found.append(
            {
                "question": row.text("query").removeprefix("Question: "),
                "choices": {"text": texts_of(row, "choices"), "label": letters},
                "answerKey": letters[gold_of(row, len(letters))],
            }
        )
    return found


def winogrande(source: Source) -> list[Document]:
    """``context_options``: the text before the blank with either word in it; ``continuation``; the index ``gold``."""
    return [
        {
            "sentence": f"{before}_ {row.text('continuation')}",
            "option1": options[0],
            "option2": options[1],
            "answer": str(gold_of(row, 2) + 1),
        }
        for before, options, row in blanks(source)
    ]


def winograd(source: Source) -> list[Document]:
    """The same for Winograd's schemas; the words are put in as they are, so "_" stands for the pronoun."""
    return [
        {
            "text": f"{before}_ {row.text('continuation')}",
            "pronoun": "_",
            "pronoun_loc": len(before),
            "options": options,
            "label": gold_of(row, 2),
        }
        for before, options, row in blanks(source)
    ]


def blanks(source: Source) -> list[tuple[str, list[str], Row]]:
    """What two texts have in common before their last words, those words, and the row."""
    found = []
    for row in source.rows():
        texts = texts_of(row, "context_options")
        if len(texts) != 2:
            raise row.wrong(f"context_options has {len(texts)} texts, not 2")
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(*texts))))
        before = texts[0][: texts[0].rfind(" ", 0, same) + 1]  # whole words
        found.append((before, [text[len(before) :] for text in texts], row))
    return found


def texts_of(row: Row, name: str) -> list[str]:
    """A list of texts; raises UserError."""
    texts = value_of(row, name, "list")
    if not all(isinstance(text, str) for text in texts):
        raise row.wrong(f"{name} is not a list of texts but {texts!r}")
    return list(texts)


def gold_of(row: Row, count: int) -> int:
    """The index of the right one of so many; raises UserError."""
    gold = value_of(row, "gold", "whole number")
    if not 0 <= gold < count:
        raise row.wrong(f"gold is not the index of one of {count} but {gold}")
    return int(gold)


FORMS: Mapping[str, Callable[..., list[Document]]] = {
    "piqa": piqa,
    "arc": arc,
    "winogrande": winogrande,
    "winograd": winograd,
}
