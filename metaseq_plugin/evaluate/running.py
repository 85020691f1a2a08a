"""An evaluation from its tasks to its file of results; it goes on where an earlier one was killed.

    asked = prepare(tasks, folder, options)             (1) every file is read and checked before the model is asked
    results = evaluate(asked, model, plan, ranks)       (2) what the model cannot answer is refused before it is asked,
                                                        (3) chunk after chunk is answered and recorded at once,
                                                        (4) figures over the records, written whole

The unit of work is a chunk: items of one task that fill about one batch. Its batches depend on nothing else, so an
item's numbers are the same to the last bit whether a run was killed and resumed, and on whichever rank; what a kill
has left of a chunk is answered anew. A chunk is recorded when all of it is there.
"""

import json
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence

from tqdm import tqdm

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.data_folder import DataFolder
from metaseq_plugin.evaluate.items_file import (
    FORMAT,
    Entry,
    Header,
    ItemsFile,
    opened_items,
)
from metaseq_plugin.evaluate.rank_files import adopt, own_file
from metaseq_plugin.evaluate.requests import (
    Answer,
    Foreseeing,
    Model,
    Pair,
    PairAnswer,
    Prompt,
    PromptAnswer,
    Request,
    Whole,
)
from metaseq_plugin.evaluate.results import Results, TaskResult, digest, items_of, write_results
from metaseq_plugin.evaluate.task import Item, Measure, Options, Task
from metaseq_plugin.layout.peers import Ranks, on_first
from metaseq_plugin.storage.output_file import unwritable

PLACES = ("path", "checkpoint")  # where a model lies
CHARACTERS_PER_TOKEN = 4  # of English text in OPT's tokens, about


class Asked(NamedTuple):
    """A task with its items.

    Attributes:
        protocol, data: as ``TaskResult`` has them.
    """

    task: Task
    items: Sequence[Item]
    protocol: Mapping[str, Any]
    data: Mapping[str, str]

    def head(self) -> dict[str, Any]:
        """What must be the same for its records to be of use."""
        ids = digest(item.id for item in self.items)
        return {"protocol": self.protocol, "data": self.data, "items": ids}


class Chunk(NamedTuple):
    """Items that are answered together."""

    asked: Asked
    items: Sequence[Item]

    def names(self) -> list[tuple[str, str]]:
        return [(self.asked.task.name, item.id) for item in self.items]


class Plan(NamedTuple):
    """How an evaluation is to run.

    Attributes:
        options: for the tasks; ``about``: the same as results say it.
        versions, left_out: as ``Results`` has them.
        output: the file of results.
        batch_tokens: of a batch of the model.
        fresh: forget what was recorded.
    """

    options: Options
    about: Mapping[str, Any]
    versions: Mapping[str, str]
    left_out: Mapping[str, str]
    output: Path
    batch_tokens: int
    fresh: bool


def prepare(task: Task, folder: DataFolder, options: Options) -> Asked:
    """Read the items of ``task``, the first ``options.limit``.

    Raises:
        MissingData: a file that it reads is not there.
        UserError: a file is wrong, or there is no item.
    """
    paths = [file.path for file in task.files]
    items = task.items(folder, options)[: options.limit]
    if not items:
        raise UserError(
            f"`--data` must hold items of {task.name}, but {', '.join(paths) or 'it'} has none. Check the files."
        )
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = next(name for place, name in enumerate(ids) if name in ids[:place])
        raise UserError(
            f"`--data` must hold each item of {task.name} once, but {twice} is there twice. Mend the file."
        )
    data = {path: folder.checksums[path] for path in paths if path in folder.checksums}
    return Asked(task, items, task.protocol(options), data)


def size(request: Request) -> int:
    """Characters that are read or written for a request, about."""
    if isinstance(request, Pair):
        return len(request.context) + len(request.continuation)
    if isinstance(request, Prompt):
        written = CHARACTERS_PER_TOKEN * int(request.options.get("max_new_tokens", 0))
        return int(request.options.get("num_samples", 1)) * (len(request.text) + written)
    return len(request.text)


def chunks(asked: Sequence[Asked], batch_tokens: int) -> Iterator[Chunk]:
    """All items, in order, as many at once as fill a batch."""
    for one in asked:
        start, filled = 0, 0
        for place, item in enumerate(one.items):
            filled += sum(map(size, item.requests))
            if filled >= CHARACTERS_PER_TOKEN * batch_tokens:
                yield Chunk(one, one.items[start : place + 1])
                start, filled = place + 1, 0
        if start < len(one.items):
            yield Chunk(one, one.items[start:])


def answered(chunk: Chunk, model: Model, options: Options) -> list[Entry]:
    """The records of a chunk, in the order of its items."""
    requests = [request for item in chunk.items for request in item.requests]
    answers: dict[int, Answer] = dict(model.answer(requests))
    entries, first = [], 0
    task = chunk.asked.task
    for item in chunk.items:
        own = [answers[place] for place in range(first, first + len(item.requests))]
        first += len(item.requests)
        entries.append(entry(task, item, own, options))
    return entries


def entry(task: Task, item: Item, answers: Sequence[Answer], options: Options) -> Entry:
    """Raises UserError where a number is none."""
    ncut = sum(isinstance(one, (PairAnswer, PromptAnswer)) and one.ncut > 0 for one in answers)
    nmerged = sum(isinstance(one, PairAnswer) and one.is_merged for one in answers)
    made = Entry(task.name, item.id, ncut, nmerged, task.record(item, answers, options))
    try:
        # As a resumed run reads it: figures are made of one and the same.
        return Entry(**json.loads(made.line()))
    except ValueError as error:
        raise UserError(
            f"The model must answer {task.name} with finite numbers, but {item.id} is not ({error}). "
            "Look at its weights, or set --dtype float32."
        ) from error


def evaluate(asked: Sequence[Asked], model: Model, plan: Plan, ranks: Ranks) -> Optional[Results]:
    """Answer what is not recorded yet, and write the results; None on ranks other than the first.

    Raises:
        UserError: the model cannot answer all of it; the output holds something else, cannot be written or is in
            use; or a task or model says so.
    """
    asked = [as_read(one, model) for one in asked]
    header = header_of(asked, model, plan)
    work = list(chunks(asked, plan.batch_tokens))
    with ExitStack() as stack:
        items: Optional[ItemsFile] = None

        def begin() -> list[int]:
            nonlocal items
            path = items_of(plan.output)
            items = stack.enter_context(opened_items(path, plan.fresh))
            items.begin(header)
            adopt(items, plan.fresh)
            recorded = items.entries.keys()
            return [n for n, chunk in enumerate(work) if not recorded >= set(chunk.names())]

        left = on_first(ranks, begin)
        mine = [work[number] for number in left[ranks.rank :: ranks.size]]
        with own_file(items, items_of(plan.output), ranks.rank, header) as own:
            before = count(work) - count([work[number] for number in left])
            record(mine, before, model, plan.options, own, is_shown=ranks.rank == 0)
        ranks.barrier()
        if items is None:
            return None
        adopt(items, fresh=False)
        items.finish([name for chunk in work for name in chunk.names()])
        results = results_of(asked, model, plan, items)
        try:
            write_results(results, plan.output)
        except OSError as error:
            raise unwritable(plan.output, error) from error
        return results


def as_read(one: Asked, model: Model) -> Asked:
    """A task as ``model`` reads it: how it reads whole texts is in the protocol of a task that asks for them."""
    if isinstance(model, Foreseeing):
        check_answerable(one, model)
    if any(isinstance(request, Whole) for item in one.items for request in item.requests):
        return one._replace(protocol={**one.protocol, "whole": model.about["whole"]})
    return one


def check_answerable(one: Asked, model: Foreseeing) -> None:
    """Raises UserError where the model foresees that it cannot answer an item."""
    for item in one.items:
        for request in item.requests:
            why = model.obstacle(request)
            if why is not None:
                raise UserError(
                    f"`TASK` must be one that the model can answer, but of {one.task.name}, item {item.id}, {why}. "
                    "Name other tasks, or set a model that reads more."
                )


def count(work: Sequence[Chunk]) -> int:
    """The items in chunks."""
    return sum(len(chunk.items) for chunk in work)


def record(
    mine: Sequence[Chunk],
    before: int,
    model: Model,
    options: Options,
    own: ItemsFile,
    is_shown: bool,
) -> None:
    """Answer this rank's chunks and write each down.

    Args:
        before: items that were recorded already.
        is_shown: whether there is a bar, at a terminal.
    """
    hidden = None if is_shown else True  # None: tqdm looks whether there is a terminal
    with closing(
        tqdm(total=before + count(mine), initial=before, unit=" items", disable=hidden)
    ) as bar:
        for chunk in mine:
            bar.set_description(chunk.asked.task.name)
            own.append(answered(chunk, model, options))
            bar.update(len(chunk.items))


def identity(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is; where it lies is no part of it, if its fingerprint is known."""
    if about.get("fingerprint") is None:
        return dict(about)
    return {name: value for name, value in about.items() if name not in PLACES}


def header_of(asked: Sequence[Asked], model: Model, plan: Plan) -> Header:
    return {
        "format": FORMAT,
        "model": identity(model.about),
        "options": dict(plan.about),
        "versions": dict(plan.versions),
        "batch_tokens": plan.batch_tokens,
        "tasks": {one.task.name: one.head() for one in asked},
    }


def results_of(asked: Sequence[Asked], model: Model, plan: Plan, items: ItemsFile) -> Results:
    """The figures over what is recorded."""
    tasks = {}
    for one in asked:
        entries = [items.entries[one.task.name, item.id] for item in one.items]
        measures: Sequence[Measure] = one.task.measures([of.record for of in entries], plan.options)
        tasks[one.task.name] = TaskResult(
            title=one.task.title,
            source=one.task.source,
            protocol=one.protocol,
            data=one.data,
            n=len(entries),
            ncut=sum(of.ncut for of in entries),
            nmerged=sum(of.nmerged for of in entries),
            measures=tuple(measures),
            items=digest(item.id for item in one.items),
        )
    return Results(model.about, plan.about, plan.versions, tasks, plan.left_out)
