"""The same tasks for the stock ``lm_eval``: task files on local data.

    python -m metaseq_plugin.evaluate.abilities.task_files eval-data tasks
    lm_eval --model metaseq_opt --model_args path=runs/quickstart --include_path tasks --tasks metaseq_piqa --seed 1

A file is written for each task whose data are there; its name is ours behind ``metaseq_``. ``--seed 1`` draws the
examples that ``metaseq eval`` draws.
"""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

from metaseq_plugin.compat.errors import EXIT_USER_ERROR, UserError
from metaseq_plugin.evaluate.abilities.documents import Source
from metaseq_plugin.evaluate.abilities.lm_eval_task import LmEvalTask
from metaseq_plugin.evaluate.tasks import GROUPS, load

PREFIX = "metaseq_"


def write_task_files(data: Path, folder: Path) -> list[Path]:
    """Write them; shots are drawn from the examples where their file is there, too.

    Raises:
        UserError: no task has its data in ``data``, or lm_eval is not installed.
    """
    written = []
    for name in GROUPS["abilities"]:
        task = load(name)
        assert isinstance(task, LmEvalTask)
        splits = {
            split.name: [Source(data / file.path, file) for file in split.files]
            for split in (task.evaluated, task.examples)
            if split is not None and all((data / file.path).is_file() for file in split.files)
        }
        if task.evaluated.name in splits:
            folder.mkdir(parents=True, exist_ok=True)
            asked = PREFIX + name.replace("-", "_")
            path = folder / f"{asked}.yaml"
            path.write_text(task.definition(asked, splits))
            written.append(path)
    if not written:
        raise UserError(
            f"`DATA` must hold the files of a task of abilities, but {data} holds none. "
            "metaseq eval abilities says where to get them."
        )
    return written


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Write task files of lm_eval's for local data.")
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of evaluation sets")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="for lm_eval's --include_path")
    given = parser.parse_args(arguments)
    try:
        written = write_task_files(given.data, given.folder)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USER_ERROR
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
