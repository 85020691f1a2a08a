"""A process that exits leaves its process groups, where nobody waits in them; until then it may train again."""

import atexit
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from metaseq_plugin.compat import process_groups
from tests.fairseq_runs import train, training_arguments


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What would be called."""
    called: list[Any] = []

    def forget(function: Any) -> None:
        called[:] = [other for other in called if other is not function]

    monkeypatch.setattr(atexit, "register", called.append)
    monkeypatch.setattr(atexit, "unregister", forget)
    yield called
    process_groups.leave()


def meet(fails: bool = False) -> str:
    """What a run of one rank does."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if fails:
        raise ValueError("the run's own")
    return "done"


@pytest.mark.parametrize("fails", [False, True])
def test_a_rank_alone_leaves_however_its_run_ends(fails: bool, at_exit: list[Any]) -> None:
    run = process_groups.leaving_alone(meet)
    if fails:
        with pytest.raises(ValueError, match="the run's own"):
            run(fails=True)
    else:
        assert run() == "done"
    assert dist.is_initialized()
    for function in at_exit:
        function()
    assert not dist.is_initialized()


def test_a_group_that_was_there_before_stays(at_exit: list[Any]) -> None:
    meet()
    process_groups.leaving_alone(meet)()
    assert at_exit == []


def test_a_rank_among_others_leaves_a_run_that_ended_well(
    at_exit: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = process_groups.leaving_together(meet)
    assert run() == "done"
    assert at_exit == [process_groups.leave]
    with pytest.raises(ValueError, match="the run's own"):
        run(fails=True)
    assert at_exit == []
    process_groups.leave()
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    process_groups.leaving_alone(meet)()
    assert at_exit == []


@pytest.mark.slow
def test_a_process_may_train_again_without_shards(tmp_path: Path) -> None:
    """The grid of its first run has groups, which the second asks."""
    run = ("--task", "opt_dummy_lm", "--dict-size", 90, "--disable-validation", "--max-update", 1)

    def train_sharded_first() -> None:
        from fairseq_cli.train import cli_main

        words = (*run, "--ddp-backend", "fully_sharded", "--use-sharded-state")
        arguments = training_arguments(None, tmp_path / "first", *words)
        sys.argv = ["fairseq-train", *map(str, arguments)]
        cli_main()

    ended = train(None, tmp_path / "second", *run, "--log-norms", 1, prepare=train_sharded_first)
    assert ended.status == 0, ended
