"""What a data folder asks of a command: the task that reads it, and the splits that are in it.

data_options("data")     # {"task": "opt_language_modeling", "train-subset": "train", "valid-subset": "valid"}
data_options("DATA")     # {"task": "opt_streaming_language_modeling", …, "valid-subset": "valid/books,valid/wiki"}
"""

from pathlib import Path

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.spec import Value


def data_options(data: str) -> dict[str, Value]:
    """The task and splits for ``data``, a folder, or several of binarised splits joined by ``:``.

    A folder with ``train.idx`` is one of ``metaseq prepare``; one with ``train/00`` is streamed. Every validation
    split that is there is validated, by itself; where there is none, nothing is.

    Raises:
        UserError: no folder, or one with neither.
    """
    folder = Path(data.split(":")[0])
    if not data or not folder.is_dir():
        raise UserError(
            f"`--data` must be a folder, but {folder} is not. Make it with `metaseq prepare`."
        )
    if (folder / "train.idx").is_file():
        subsets = ["valid"] if (folder / "valid.idx").is_file() else []
        task = "opt_language_modeling"
    elif (folder / "train" / "00").is_dir() or (folder / "train" / "0").is_dir():
        found = (folder / "valid").iterdir() if (folder / "valid").is_dir() else ()
        splits = sorted(path for path in found if path.is_dir() and not path.name.isdecimal())
        subsets = [f"valid/{path.name}" for path in splits]
        if not subsets and any((folder / "valid").glob("[0-9]*")):
            subsets = ["valid"]
        task = "opt_streaming_language_modeling"
    else:
        raise UserError(
            f"`--data` must hold train.bin and train.idx, or text in train/00, but {folder} does not. "
            "Make it with `metaseq prepare`, or see docs/streaming.md."
        )
    options: dict[str, Value] = {"task": task, "train-subset": "train"}
    if subsets:
        return {**options, "valid-subset": ",".join(subsets), "ignore-unused-valid-subsets": True}
    return {**options, "disable-validation": True}
