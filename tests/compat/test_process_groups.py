"""Ranks leave their process groups at the end of a run, where nobody waits in them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch.distributed as dist

from metaseq_plugin.compat import process_groups


@pytest.fixture
def no_group() -> Iterator[None]:
    yield
    process_groups.leave()


def meet(fails: bool = False) -> str:
    """What a run of one rank does."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if fails:
        raise ValueError("the run's own")
    return "done"


def test_a_rank_alone_leaves_however_its_run_ends(no_group: None) -> None:
    run = process_groups.leaving_alone(meet)
    assert run() == "done"
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="the run's own"):
        run(fails=True)
    assert not dist.is_initialized()


def test_a_group_that_was_there_before_stays(no_group: None) -> None:
    meet()
    process_groups.leaving_alone(lambda: None)()
    assert dist.is_initialized()


def test_a_rank_among_others_leaves_a_run_that_ended_well(
    no_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = process_groups.leaving_together(meet)
    with pytest.raises(ValueError, match="the run's own"):
        run(fails=True)
    assert dist.is_initialized()
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    process_groups.leaving_alone(lambda: None)()
    assert dist.is_initialized()
    process_groups.leave()
    assert run() == "done"
    assert not dist.is_initialized()
