"""The lines of a file of prompts: what each asks, and by what it is known again.

In a .jsonl file a line is {"prompt": …} with options beside it, and a blank line is nothing; in any other
file a line is a prompt.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Sequence, TypeVar

from metaseq_plugin.compat.errors import UserError, brief
from metaseq_plugin.generation.options import Prompt
from metaseq_plugin.serve.prompt_options import check_options

MOST_TOLD = 20  # mistakes of one file

T = TypeVar("T")


class Line(NamedTuple):
    """One prompt of the file."""

    number: int  # from 1
    prompt: Prompt
    options: Mapping[str, Any]  # of ``OPT.generate``, those of the command included

    def key(self, model: Sequence[Any]) -> str:
        """A name for what is asked of a model, which ``model`` names."""
        asked = json.dumps([model, self.prompt, self.options], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


def read_lines(path: Path, options: Mapping[str, Any]) -> list[Line]:
    """The prompts of a file, with ``options`` where a line has none of its own.

    Raises:
        UserError: it cannot be read, holds nothing, or has lines that are none; all of them are named.
    """
    try:
        texts = path.read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise UserError(
            f"`--file` must be a file that can be read, but {path} is not ({error.strerror}). "
            "Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"`--file` must be UTF-8 text, but byte {error.start} of {path} is not. Convert it."
        ) from error
    if texts[-1] == "":  # behind the last line's end
        texts.pop()
    numbered = [(number, text.removesuffix("\r")) for number, text in enumerate(texts, 1)]
    if path.suffix == ".jsonl":
        numbered = [(number, text) for number, text in numbered if text.strip()]
        lines = of_each(path, numbered, lambda text: parse(text, options))
    else:
        lines = [(text, options) for _, text in numbered]
    if not lines:
        raise UserError(f"`--file` must hold a prompt, but {path} is empty. Write one a line.")
    return [Line(number, *line) for (number, _), line in zip(numbered, lines)]


def parse(text: str, options: Mapping[str, Any]) -> tuple[Prompt, Mapping[str, Any]]:
    """Prompt and options of one line of a .jsonl file."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"A line must be a JSON object, but is {brief(text, 80)!r}. Mend it."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("prompt"), (str, list)):
        raise UserError(
            'A line must hold a text or a list of token ids as "prompt", but is '
            f'{brief(text, 80)!r}. Set {{"prompt": "Once"}}, say.'
        )
    prompt = content.pop("prompt")
    if content:
        check_options({**options, **content})
    return prompt, {**options, **content}


def of_each(path: Path, numbered: Iterable[tuple[int, T]], work: Callable[[T], Any]) -> list[Any]:
    """``work`` of each line; all that it refuses, by the lines' numbers, in one ``UserError``."""
    found, problems = [], []
    for number, line in numbered:
        try:
            found.append(work(line))
        except UserError as error:
            problems += [f"{path} line {number}: {sentence}" for sentence in error.sentences]
    if problems:
        more = len(problems) - MOST_TOLD
        told = problems[:MOST_TOLD] + (
            [f"There are {more} more such mistakes."] if more > 0 else []
        )
        raise UserError(*told)
    return found
