"""A file of prompts answered in chunks of lines, from where an earlier run stopped.

The steps: (1) read all lines, and find out how many of them the results have already; (2) load the model, and
let it check every line; (3) continue chunk after chunk, and write the results of each.
Equal lines get other samples each, also where they are in different chunks.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

from tqdm import tqdm

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.options import Asked
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.prompt_lines import Line, of_each, read_lines
from metaseq_plugin.serve.results_file import as_record, opened_results
from metaseq_plugin.serve.terminal import say

LINES_AT_ONCE = 64  # a killed run loses the work of so many at most


def answer_file(
    args: argparse.Namespace, path: str, options: Mapping[str, Any], load: Callable[[], OPT]
) -> None:
    """Answer every line of ``args.file``; what --output holds already stays.

    Args:
        path: the model's.
        options: of ``OPT.generate``, for lines that have none of their own.
    """
    lines = read_lines(args.file, options)
    if args.output is None:
        for _, records in answered(load(), args, path, lines, 0):
            say("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        return
    if args.output.resolve() == args.file.resolve():
        raise UserError(
            "`--output` must be another file than --file, but is the same. Set another."
        )
    with opened_results(args.output) as results:
        done = results.held(named(lines, args, path), chunk_size(args))
        if done < len(lines):
            for start, records in answered(load(), args, path, lines, done):
                results.append(start, records)
    before = f", {done:,} of them from before" if done else ""
    print(f"results  {args.output}: {len(lines):,} prompts{before}")  # noqa: T201


def chunk_size(args: argparse.Namespace) -> int:
    return LINES_AT_ONCE if args.batch_size is None else int(args.batch_size)


def named(lines: Sequence[Line], args: argparse.Namespace, path: str) -> list[tuple[int, str]]:
    """Number and key of each line."""
    model = (str(Path(path).resolve()), args.data, args.dtype)
    return [(line.number, line.key(model)) for line in lines]


def answered(
    opt: OPT, args: argparse.Namespace, path: str, lines: Sequence[Line], done: int
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The records of each chunk behind the first ``done`` lines, and how many lines are before it.

    Raises:
        UserError: the model cannot read some lines; all of them are named, before any work.
    """
    numbered = [(line.number, line) for line in lines]
    asked = of_each(args.file, numbered, Checker(opt).check)
    names, repeats = named(lines, args, path), count_keys(lines)
    with tqdm(total=len(lines), initial=done, unit=" prompts", disable=None) as bar:
        for start in range(done, len(lines), chunk_size(args)):
            chunk = slice(start, start + chunk_size(args))
            prompts = [line.prompt for line in lines[chunk]]
            rows = opt.rows_of(prompts)
            found = opt.continue_rows(rows, asked[chunk], repeats[chunk], args.batch_size)
            yield (
                start,
                [
                    {"line": number, "key": key, **as_record(prompt, completions)}
                    for (number, key), prompt, completions in zip(names[chunk], prompts, found)
                ],
            )
            bar.update(len(prompts))


class Checker:
    """What a model says to lines; equal options are read once."""

    def __init__(self, opt: OPT) -> None:
        self.opt = opt
        self.asked: dict[str, Asked] = {}

    def check(self, line: Line) -> Asked:
        """The options of a line; raises UserError where the model cannot follow them or read its prompt."""
        name = json.dumps(line.options, sort_keys=True)
        if name not in self.asked:
            self.asked[name] = self.opt.read_options(line.options)
        self.opt.generator.check_prompts(self.opt.rows_of([line.prompt]))
        return self.asked[name]


def count_keys(lines: Sequence[Line]) -> list[int]:
    """For each line, how many of those before it ask the same."""
    seen: Counter[str] = Counter()
    repeats = []
    for line in lines:
        key = line.key(())
        repeats.append(seen[key])
        seen[key] += 1
    return repeats
