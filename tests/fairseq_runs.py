"""Run stock ``fairseq-*`` commands in tests: a tiny data folder, and a command in a forked child.

A fork has fairseq imported already and leaves no global state behind, so a run costs a second
instead of five and cannot disturb the next.
"""

import contextlib
import importlib
import logging
import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Sequence

import numpy as np
import torch
import torch._dynamo  # every run imports it, for two seconds; here once for all forks
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, data_file_path, index_file_path

import metaseq_plugin  # noqa: F401  registers everything before the fork

EOS = 2
FIRST_SYMBOL = 4  # ids 0 to 3 are <s>, <pad>, </s>, <unk>
TIMEOUT_SECONDS = 300


def write_dictionary(folder: Path, vocab_size: int) -> None:
    """``dict.txt`` that gives ``vocab_size`` types with the four special ones."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = [f"w{i} 1\n" for i in range(vocab_size - FIRST_SYMBOL)]
    (folder / "dict.txt").write_text("".join(symbols))


def write_split(folder: Path, split: str, documents: Sequence[Sequence[int]]) -> None:
    """Binarise ``documents``, each given without its closing ``</s>``."""
    prefix = str(folder / split)
    builder = MMapIndexedDatasetBuilder(data_file_path(prefix), dtype=np.uint16)
    for document in documents:
        builder.add_item(torch.tensor([*document, EOS]))
    builder.finalize(index_file_path(prefix))


def write_data(
    folder: Path, vocab_size: int = 40, documents: int = 60, longest: int = 40, seed: int = 0
) -> Path:
    """A data folder with ``train`` and ``valid`` of random documents of 5 to ``longest`` tokens."""
    write_dictionary(folder, vocab_size)
    random = np.random.default_rng(seed)
    for split, count in (("train", documents), ("valid", max(2, documents // 10))):
        lengths = random.integers(5, longest, count)  # </s> comes on top
        write_split(folder, split, [random.integers(FIRST_SYMBOL, vocab_size, n) for n in lengths])
    return folder


class Ended(NamedTuple):
    """How a command ended: its exit status and all it printed."""

    status: int
    output: str

    @property
    def said(self) -> str:
        """All but what only a fork says, in which the plugin is imported already."""
        lines = self.output.splitlines(keepends=True)
        return "".join(line for line in lines if "has already been imported" not in line)

    @property
    def last_line(self) -> str:
        return self.output.strip().splitlines()[-1]


def _child(
    command: str, argv: Sequence[str], log: str, stdin: str, prepare: Optional[Callable[[], None]]
) -> None:
    inductor: Any = sys.modules.get("torch._inductor.config")
    if inductor is not None:  # the pool of the parent's torch.compile does not survive the fork
        inductor.compile_threads = 1
    with open(log, "w") as stream, open(stdin) as typed:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdin = typed
        if prepare is not None:
            prepare()
        sys.argv = [f"fairseq-{command}", *argv]
        module = importlib.import_module(f"fairseq_cli.{command.replace('-', '_')}")
        # What the command's module sets up when it is imported first, which here it may not be.
        logging.basicConfig(
            format="%(asctime)s | %(levelname)s | %(name)s | %(message)s",
            level=logging.INFO,
            stream=stream,
            force=True,
        )
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            try:
                module.cli_main()
            except Exception:
                traceback.print_exc()
                raise


def run_fairseq(
    command: str,
    *argv: Any,
    log_dir: Path,
    stdin: str = "",
    prepare: Optional[Callable[[], None]] = None,
) -> Ended:
    """``fairseq-⟨command⟩ ⟨argv⟩`` with ``stdin`` typed into it.

    Args:
        prepare: runs in the child before the command, for example to record what it does.
    """
    log, typed = log_dir / f"{command}.log", log_dir / f"{command}.stdin"
    typed.write_text(stdin)
    arguments = (command, [str(a) for a in argv], str(log), str(typed), prepare)
    process = multiprocessing.get_context("fork").Process(target=_child, args=arguments)
    process.start()
    process.join(TIMEOUT_SECONDS)
    assert not process.is_alive(), f"fairseq-{command} ran longer than {TIMEOUT_SECONDS} s"
    assert process.exitcode is not None
    return Ended(process.exitcode, log.read_text())


TINY = (
    "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu", "--arch", "opt",
    "--decoder-layers", "2", "--decoder-embed-dim", "16", "--decoder-attention-heads", "2",
    "--tokens-per-sample", "32", "--batch-size", "4", "--no-progress-bar",
)  # fmt: skip


def training_arguments(data: Optional[Path], save_dir: Path, *options: Any) -> list[str]:
    """The command line of ``train``; ``data`` is None for a task that needs none."""
    arguments = (
        *(() if data is None else (data,)), *TINY, "--criterion", "chunked_cross_entropy", "--optimizer", "adamw",
        "--lr", "0.01", "--clip-norm", "1.0", "--save-dir", save_dir, *options,
    )  # fmt: skip
    return [str(argument) for argument in arguments]


def train(data: Optional[Path], save_dir: Path, *options: Any, **run_options: Any) -> Ended:
    """``fairseq-train`` of a tiny model with the plugin's criterion and optimizer."""
    save_dir.mkdir(parents=True, exist_ok=True)
    arguments = training_arguments(data, save_dir, *options)
    return run_fairseq("train", *arguments, log_dir=save_dir, **run_options)
