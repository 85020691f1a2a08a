"""Documents as lm_eval's task definitions read them, made of the files of an evaluation folder.

    datasets_of({"validation": {"form": "piqa", "files": [...]}})      what lm_eval calls a custom dataset

A document has the fields of the set on Hugging Face's hub. A file that has them already is JSONL of them (form
``fields``); the other forms are those of the files that are at hand otherwise.
"""

from itertools import takewhile
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.table_files import json_rows, text_of

Document = Mapping[str, Any]
KINDS: Mapping[str, type] = {"str": str, "int": int, "list": list, "dict": dict}


def datasets_of(splits: Mapping[str, Mapping[str, Any]], **ignored: Any) -> dict[str, Any]:
    """A ``datasets.Dataset`` of each split; what else lm_eval hands over does not matter.

    Raises:
        UserError: a line that is not what its form says.
    """
    from datasets import Dataset

    return {
        name: Dataset.from_list(read(split["form"], split["fields"], split["files"]))
        for name, split in splits.items()
    }


def read(form: str, fields: Mapping[str, str], files: Sequence[str]) -> list[Document]:
    """The documents of ``files`` in a form of ``FORMS``.

    Args:
        fields: of a document -> the name of their kind in ``KINDS``; the form ``fields`` looks for them.
    """
    first, *others = map(Path, files)
    if form == "fields":
        kinds = {field: KINDS[kind] for field, kind in fields.items()}
        return [{field: row[field] for field in fields} for _, row in json_rows(first, kinds)]
    return FORMS[form](first, *others)


def piqa(questions: Path, labels: Path) -> list[Document]:
    """The set's own two files: a question with two solutions, and the number of the right one, line by line."""
    rows = [row for _, row in json_rows(questions, {"goal": str, "sol1": str, "sol2": str})]
    right = text_of(labels).split()
    if len(right) != len(rows) or not set(right) <= {"0", "1"}:
        raise UserError(
            f"{labels} must have 0 or 1 for each of the {len(rows)} lines of {questions.name}, but has "
            f"{len(right)} words, {', '.join(sorted(set(right))[:5])} among them. Get both from their source again."
        )
    return [{**row, "label": int(label)} for row, label in zip(rows, right)]


def arc(path: Path) -> list[Document]:
    """``query``, "Question: " before it, ``choices`` and the index ``gold``."""
    found = []
    for line, row in json_rows(path, {"query": str, "choices": list, "gold": int}):
        letters = [chr(ord("A") + place) for place in range(len(row["choices"]))]
        found.append(
            {
                "question": row["query"].removeprefix("Question: "),
                "choices": {"text": row["choices"], "label": letters},
                "answerKey": letters[checked_gold(row, "choices", path, line)],
            }
        )
    return found


def winogrande(path: Path) -> list[Document]:
    """``context_options``: the text before the blank with either word in it; ``continuation``; the index ``gold``."""
    return [
        {
            "sentence": f"{before}_ {row['continuation']}",
            "option1": options[0],
            "option2": options[1],
            "answer": str(row["gold"] + 1),
        }
        for before, options, row in blanks(path)
    ]


def winograd(path: Path) -> list[Document]:
    """The same for Winograd's schemas; the words are put in as they are, so "_" stands for the pronoun."""
    return [
        {
            "text": f"{before}_ {row['continuation']}",
            "pronoun": "_",
            "pronoun_loc": len(before),
            "options": options,
            "label": row["gold"],
        }
        for before, options, row in blanks(path)
    ]


def blanks(path: Path) -> list[tuple[str, list[str], Document]]:
    """What two texts have in common before their last words, those words, and the row."""
    found = []
    for line, row in json_rows(path, {"context_options": list, "continuation": str, "gold": int}):
        texts = row["context_options"]
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"{path}:{line} must have two texts as context_options, but has {texts}. "
                "Get the file from its source again."
            )
        checked_gold(row, "context_options", path, line)
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(*texts))))
        before = texts[0][: texts[0].rfind(" ", 0, same) + 1]  # whole words
        found.append((before, [text[len(before) :] for text in texts], row))
    return found


def checked_gold(row: Document, choices: str, path: Path, line: int) -> int:
    """The index of the right one of ``row[choices]``."""
    gold = row["gold"]
    if not 0 <= gold < len(row[choices]):
        raise UserError(
            f"{path}:{line} must have as gold the index of one of {len(row[choices])} {choices}, but has {gold}. "
            "Get the file from its source again."
        )
    return int(gold)


FORMS: Mapping[str, Callable[..., list[Document]]] = {
    "piqa": piqa,
    "arc": arc,
    "winogrande": winogrande,
    "winograd": winograd,
}
