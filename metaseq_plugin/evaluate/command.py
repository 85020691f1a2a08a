"""Measure harms and abilities, with the published numbers beside.

    metaseq eval harms --path runs/quickstart --data eval-data --scorer lexicon:words.txt
    metaseq eval crows-pairs stereoset --path opt-125m-hf --data eval-data --limit 100
    metaseq eval hellaswag --path http://127.0.0.1:6010 --data eval-data --output served.json
    metaseq eval --list                         tasks, groups, and where to get the files they need
    metaseq eval --compare a.json b.json        side by side what was measured in the same way

PATH is a run folder, a checkpoint, a Hugging Face folder, metaseq's files, or the address of a server. --data is the
folder of evaluation sets (the tokenizer's is --tokenizer); nothing is downloaded. Results go to --output, or to
RUN/eval/TASKS.json for a run folder, else to ./eval-NAME-TASKS.json. Each item is kept beside them: the same command goes
on where it was stopped. docs/evaluate.md says more.
"""

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError, printable
from metaseq_plugin.evaluate.comparing import compare
from metaseq_plugin.evaluate.data_folder import DataFolder, MissingData
from metaseq_plugin.evaluate.listing import listing
from metaseq_plugin.evaluate.opening import add_model_arguments, is_url, open_model
from metaseq_plugin.evaluate.output import output_of
from metaseq_plugin.evaluate.plot import check_plot, known_size, write_plot
from metaseq_plugin.evaluate.rank_files import are_data_ranks, met, own_device
from metaseq_plugin.evaluate.results import Results, as_text, items_of, read_results
from metaseq_plugin.evaluate.running import Asked, Plan, evaluate, prepare
from metaseq_plugin.evaluate.table import table
from metaseq_plugin.evaluate.tables import model_names
from metaseq_plugin.evaluate.task import Options, Scorer
from metaseq_plugin.evaluate.tasks import GROUPS, tasks_of
from metaseq_plugin.generation.generator import MAX_BATCH_TOKENS
from metaseq_plugin.launch.decoding_ranks import own_rank

PACKAGES = ("metaseq-plugin", "fairseq", "torch")
DEFAULTS = Options()
# The options that mean nothing to --compare.
OF_MEASURING = ("tasks", "path", "data", "limit", "shots", "scorer", "output", "fresh", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "metaseq eval [options] TASK… --path PATH"
    add = parser.add_argument
    add("tasks", nargs="*", metavar="TASK", help=f"tasks, and groups of them ({', '.join(GROUPS)})")
    add("--list", action="store_true", dest="is_list", help="print the tasks, and what they need")
    add("--compare", type=Path, nargs="+", metavar="FILE", help="results to print side by side")
    add_model_arguments(parser)
    sets = parser.add_argument_group("what is measured")
    add = sets.add_argument
    add("--data", type=Path, metavar="DIR", help="the folder of evaluation sets")
    add("--any-data", action="store_true", help="take files with another checksum than expected")
    add("--limit", type=int, metavar="N", help="the first N items of each task; default: all")
    add("--shots", type=int, metavar="K", help="examples before each question; default: the task's")
    add("--seed", type=int, default=DEFAULTS.seed, metavar="N",
        help=f"of samples, examples and intervals ({DEFAULTS.seed})")  # fmt: skip
    add("--scorer", help="who judges texts; see docs/harms.md")
    out = parser.add_argument_group("what comes of it")
    add = out.add_argument
    add("--output", type=Path, metavar="FILE", help="where results go, as JSON")
    add("--fresh", action="store_true", help="forget the items that are recorded beside --output")
    add("--json", action="store_true", help="print the results' JSON in place of a table")
    add("--page", type=Path, metavar="FILE", help="write an HTML page, also of --compare")
    add(
        "--plot",
        type=Path,
        metavar="FILE",
        help="plot figures over models' sizes, also of --compare",
    )


def run(args: argparse.Namespace) -> None:
    """List, compare or evaluate; raises UserError for a mistake."""
    if args.is_list:
        say(listing(args.tasks))
    elif args.compare is not None:
        compare_files(args)
    else:
        measure(args)


def compare_files(args: argparse.Namespace) -> None:
    given = [name for name in OF_MEASURING if vars(args)[name] not in (None, False, [])]
    if given:
        words = ", ".join("tasks" if name == "tasks" else f"--{name}" for name in given)
        raise UserError(
            f"`--compare` must come without tasks and options of measuring, but comes with {words}. Leave it out."
        )
    check_pictures(args)
    results = [read_results(path) for path in args.compare]
    found = compare(model_names(results), results)
    say(found.lines)
    for sentence in found.differing:
        tell(sentence)
    write_pictures(args, results)


def measure(args: argparse.Namespace) -> None:
    """Evaluate as asked.

    (1) What is asked for is checked, and its data read; (2) the model is opened; (3) the ranks that torchrun started, if
    any, share the work; (4) the first one prints.
    """
    options = read_options(args)
    check_pictures(args)
    asked, left_out = read_tasks(args, options)
    output = output_of(args.output, args.path, args.tasks)
    if are_data_ranks(args.model_parallel_size) and not is_url(args.path):
        args.device = own_device(args.device)
    model = open_model(args)
    if args.plot is not None:
        known_size(model.about)
    plan = Plan(
        options=options,
        about=about(options),
        versions={name: version(name) for name in PACKAGES},
        left_out=left_out,
        output=output,
        batch_tokens=args.batch_tokens or MAX_BATCH_TOKENS,
        fresh=args.fresh,
    )
    try:
        with met(args.model_parallel_size) as ranks:
            results = evaluate(asked, model, plan, ranks)
    except KeyboardInterrupt:
        tell(f"what is done is in {items_of(output)}; the same command goes on from there")
        raise
    if results is not None:
        say([as_text(results).rstrip("\n")] if args.json else table(results))
        tell(f"results  {output}")
        write_pictures(args, [results])


def read_options(args: argparse.Namespace) -> Options:
    """Raises UserError for one that cannot be."""
    if not args.tasks:
        raise UserError(
            f"`TASK` must be given, but is not. Set {' or '.join(GROUPS)}, say; --list prints all."
        )
    if args.path is None:
        raise UserError("`--path` must name a model, but is not set. Set a run folder, say.")
    for name, least in (("limit", 1), ("shots", 0), ("batch_tokens", 1)):
        value = vars(args)[name]
        if value is not None and value < least:
            raise UserError(
                f"`--{name.replace('_', '-')}` must be at least {least}, but is {value}. Set more, or leave it out."
            )
    return Options(args.limit, args.shots, args.seed, read_scorer(args.scorer))


def read_scorer(text: Optional[str]) -> Optional[Scorer]:
    from metaseq_plugin.evaluate.toxicity.scorers.reading import read_scorer

    return None if text is None else read_scorer(text)


def read_tasks(args: argparse.Namespace, options: Options) -> tuple[list[Asked], Mapping[str, str]]:
    """The tasks with their items; and of a group, why a task cannot run.

    Raises:
        UserError: a task that was named cannot run, or none can.
    """
    tasks = tasks_of(args.tasks)
    if options.shots is not None and all(task.shots is None for task in tasks):
        raise UserError(
            f"`--shots` must go with a task that takes examples, but {', '.join(args.tasks)} takes none. "
            "Leave it out."
        )
    folder = DataFolder(args.data, args.any_data, tell)
    asked, left_out = [], {}
    for task in tasks:
        try:
            if task.needs_scorer and options.scorer is None:
                raise MissingData(
                    f"`--scorer` must say who judges the texts of {task.name}, but is not set. "
                    "Set lexicon:FILE, say (docs/harms.md)."
                )
            asked.append(prepare(task, folder, options))
        except MissingData as error:
            if task.name in args.tasks:
                raise
            left_out[task.name] = str(error)
    if not asked:
        raise UserError(*left_out.values())
    for name, reason in left_out.items():
        tell(f"left out {name}: {reason}")
    return asked, left_out


def about(options: Options) -> dict[str, Any]:
    """The options, in JSON."""
    scorer = options.scorer
    return {**vars(options), "scorer": None if scorer is None else dict(scorer.about)}


def check_pictures(args: argparse.Namespace) -> None:
    """Raises UserError for a page or plot that cannot be written: before anything is measured."""
    if args.page is not None and args.page.is_dir():
        raise UserError(f"`--page` must be a file, but {args.page} is a folder. Add a name.")
    if args.plot is not None:
        check_plot(args.plot)


def write_pictures(args: argparse.Namespace, results: Sequence[Results]) -> None:
    """The page and the plot, where they are wanted."""
    if args.page is not None:
        from metaseq_plugin.evaluate.page.file import write_page

        write_page(results, args.page)
        tell(f"page     {args.page}")
    if args.plot is not None:
        write_plot(results, args.plot)
        tell(f"plot     {args.plot}")


def say(lines: Any) -> None:
    """Print; what a terminal cannot encode is shown as escapes, and a reader that has gone is no mistake."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        for line in lines:
            print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(line: str) -> None:
    """Say what a program that reads the output need not know; of several ranks, once."""
    if own_rank() == 0:
        print(printable(line), file=sys.stderr, flush=True)  # noqa: T201
