"""Run code on rank 0 of a model that is cut over forked CPU ranks, which find their place as under torchrun.

    ended, found = on_ranks(2, path, lambda opt: opt.generate([[5, 6]]), tmp_path)

Forks share what the test has imported already: four ranks start in a second.
"""

import faulthandler
import os
import pickle
import sys
from pathlib import Path
from typing import Any, Callable

from metaseq_plugin.hub import OPT
from metaseq_plugin.launch.decoding_ranks import DecodingRanks
from tests.opt_models import config, decoder, hf_twin
from tests.rank_runs import STUCK_SECONDS, fork_ranks, torchrun_environment, wait_for

GRACE_SECONDS = 30.0

Scenario = Callable[[OPT], Any]


def save_hf(folder: Path, vocab_size: int, std: float, **shape: Any) -> Path:
    """A random model as a Hugging Face folder, without a tokenizer."""
    hf_twin(decoder(vocab_size, std, **shape), config(**shape)).save_pretrained(folder)
    return folder


def _rank(
    rank: int, num_ranks: int, port: int, path: Path, scenario: Scenario, folder: Path, asked: Any
) -> None:
    os.environ.update(torchrun_environment(rank, num_ranks, port))
    sys.stdout = sys.stderr = (folder / f"rank{rank}.log").open("w", buffering=1)
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    faulthandler.dump_traceback_later(STUCK_SECONDS)  # a rank that hangs says where
    opt = OPT.from_pretrained(path, model_parallel_size=num_ranks, **asked)
    assert rank == 0
    found = scenario(opt)
    (folder / "found.pickle").write_bytes(pickle.dumps(found))
    opt.close()


def on_ranks(
    num_ranks: int, path: Path, scenario: Scenario, folder: Path, **asked: Any
) -> tuple[list[int], Any, list[str]]:
    """The exit status of every rank, what ``scenario`` returned (None: nothing), and what each printed.

    Args:
        folder: for logs; made anew.
        asked: more arguments of ``from_pretrained``.
    """
    folder.mkdir(parents=True)

    def run(rank: int, port: int) -> None:
        _rank(rank, num_ranks, port, path, scenario, folder, asked)

    _store, processes = fork_ranks(num_ranks, run)
    in_time = wait_for(processes, GRACE_SECONDS)
    statuses = [process.exitcode or 0 for process in processes]
    printed = [(folder / f"rank{rank}.log").read_text() for rank in range(num_ranks)]
    assert in_time, "\n".join([f"{statuses} (-9: did not end)", *printed])
    found = folder / "found.pickle"
    result = pickle.loads(found.read_bytes()) if found.exists() else None
    return statuses, result, printed


def counting_elements(folder: Path) -> Callable[[DecodingRanks, Any], None]:
    """``DecodingRanks.take_places`` that first notes in ``folder`` how many elements its rank holds of each tensor."""
    take_places = DecodingRanks.take_places

    def counting(ranks: DecodingRanks, models: Any) -> None:
        counts = {name: p.numel() for name, p in models[0].named_parameters()}
        (folder / f"elements{ranks.peers.rank}.pickle").write_bytes(pickle.dumps(counts))
        take_places(ranks, models)

    return counting
