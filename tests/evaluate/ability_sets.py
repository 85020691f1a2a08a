"""Small sets in the fields that they have on the hub, invented here, and how their other forms say the same."""

import hashlib
import json
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

from metaseq_plugin.evaluate.requests import (
    Answer,
    Pair,
    PairAnswer,
    Prompt,
    PromptAnswer,
    Request,
    Whole,
    WholeAnswer,
)
from metaseq_plugin.evaluate.task import DataFile

Documents = Sequence[Mapping[str, Any]]
Sets = dict[str, Mapping[str, Any]]
ANIMALS = ("cat", "dog", "horse", "mouse", "goose", "sheep", "owl")


class Folder:
    """``--data`` without checksums."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, file: DataFile) -> Path:
        return self.path / file.path


def hashed(*texts: str) -> tuple[float, bool]:
    """A log-likelihood and whether it is greedy: of a model that has read nothing, always the same."""
    number = int(hashlib.sha256("|".join(texts).encode()).hexdigest()[:12], 16)
    return -number / 2**45, number % 3 == 0


class HashModel:
    """Answers with ``hashed``; writes ``writes``."""

    about: Mapping[str, Any] = {"path": "hashed"}

    def __init__(self, writes: str = " yes") -> None:
        self.writes = writes

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for index, request in enumerate(requests):
            if isinstance(request, Pair):
                likelihood, is_greedy = hashed(*request)
                yield index, PairAnswer(likelihood, 1, is_greedy)
            elif isinstance(request, Whole):
                yield index, WholeAnswer(hashed(request.text)[0], 1, 1)
            else:
                assert isinstance(request, Prompt)
                yield index, PromptAnswer((self.writes,))


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )


def documents(name: str, shift: int) -> Documents:
    """Six documents of the set ``name``; another shift, others."""
    return [make(name, ANIMALS[(shift + number) % 7], number) for number in range(6)]


def make(name: str, animal: str, number: int) -> Mapping[str, Any]:
    other = "tree" if number % 2 else "very old and mossy stone"
    label = number % 2
    question = f"Which of these eats what the {animal} eats ({number})?"
    choices = {"text": [animal, other, "a cloud"], "label": ["A", "B", "C"]}
    made: Sets = {
        "hellaswag": {
            "ctx_a": f"A {animal} sits. [title] It waits.",
            "ctx_b": "then it",
            "activity_label": "Waiting",
            "endings": ["sleeps  well.", f"eats the {other}.", "sings [step].", "goes."],
            "label": str(number % 4),
        },
        "storycloze": {
            **{f"input_sentence_{place}": f"The {animal} did {place}." for place in (1, 2, 3, 4)},
            "sentence_quiz1": "It slept.",
            "sentence_quiz2": f"It became a {other}.",
            "answer_right_ending": label + 1,
        },
        "piqa": {"goal": f"feed a {animal}", "sol1": "hay", "sol2": f"a {other}", "label": label},
        "arc-easy": {"question": question, "choices": choices, "answerKey": "ABC"[number % 3]},
        "openbookqa": {
            "question_stem": question,
            "choices": choices,
            "answerKey": "ABC"[number % 3],
        },
        "winograd": {
            "text": f"The {animal} cannot carry the stone because it is too big {number}.",
            "pronoun": "it",
            "pronoun_loc": len(f"The {animal} cannot carry the stone because "),
            "options": [f"The {animal}", "The stone"],
            "label": label,
        },
        "winogrande": {
            "sentence": f"The {animal} cannot carry the stone because the _ is too big {number}.",
            "option1": animal,
            "option2": "stone",
            "answer": str(label + 1),
        },
        **superglue(animal, other, number),
    }
    return made["arc-easy" if name == "arc-challenge" else name]


def superglue(animal: str, other: str, number: int) -> Sets:
    label = number % 2
    premise = f"The {animal} sat by the {other}."
    return {
        "boolq": {"passage": premise, "question": f"does the {animal} sit", "label": label},
        "cb": {"premise": premise, "hypothesis": f"the {animal} sat", "label": number % 3},
        "copa": {
            "premise": premise,
            "choice1": "It was tired.",
            "choice2": f"It saw a {other}.",
            "question": "effect" if label else "cause",
            "label": label,
        },
        "wic": {
            "sentence1": f"the {animal} sat",
            "sentence2": f"a {animal} here",
            "start1": 4,
            "end1": 4 + len(animal),
            "label": label,
        },
        "wsc": {
            "text": f"The {animal} cannot carry the stone because it is too big.",
            "span1_text": f"The {animal}",
            "span2_text": "it",
            "span2_index": 7,
            "label": label,
        },
        "multirc": {
            "paragraph": premise,
            "question": f"Who sat ({number})?",
            "answer": animal,
            "label": label,
        },
        "rte": {"premise": premise, "hypothesis": f"the {animal} sat", "label": label},
        "record": {
            "passage": f"{premise}\n@highlight\nIt was old\n@highlight\nIt was green",
            "query": "So sat @placeholder there",
            "entities": [animal, f"old {animal}", other, animal],
            "answers": [animal, f"the {animal}"] if label else [other],
        },
    }


def by_gold(name: str, rows: Documents) -> list[Any]:
    """The rows in the other form of ``name``; of piqa without its labels."""
    if name == "piqa":
        return [{key: row[key] for key in ("goal", "sol1", "sol2")} for row in rows]
    if name.startswith("arc"):
        return [
            {
                "query": f"Question: {row['question']}",
                "choices": row["choices"]["text"],
                "gold": "ABC".index(row["answerKey"]),
            }
            for row in rows
        ]
    if name == "winograd":
        return [
            {
                "context_options": [
                    row["text"][: row["pronoun_loc"]] + option.replace("The", "the")
                    for option in row["options"]
                ],
                "continuation": row["text"][row["pronoun_loc"] + len("it ") :],
                "gold": row["label"],
            }
            for row in rows
        ]
    return [
        {
            "context_options": [
                row["sentence"].split("_")[0] + row[option] for option in ("option1", "option2")
            ],
            "continuation": row["sentence"].split("_")[1].strip(),
            "gold": int(row["answer"]) - 1,
        }
        for row in rows
    ]
