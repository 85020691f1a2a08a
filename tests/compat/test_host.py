"""What the seams ask of the registered host; without one, fairseq does what it always did."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Optional

import pytest
from fairseq.model_parallel.megatron import mpu

from metaseq_plugin.compat import checkpoint_sets, parallel_doors
from metaseq_plugin.compat.host import host_of, register, registered


def config(model: Optional[str]) -> Any:
    """Settings of a run of ``model``."""
    name = None if model is None else SimpleNamespace(_name=model)
    return SimpleNamespace(model=name, common=SimpleNamespace(user_dir=None))


@pytest.fixture
def no_host() -> Iterator[None]:
    """Gives everything back to fairseq, for one test."""
    before = registered()
    register(None)
    yield
    register(before)


def asked(name: str) -> Any:
    """A function of fairseq's that tells that it was called."""
    return lambda *args, **kwargs: f"fairseq's {name}"


@pytest.mark.parametrize(
    ("model", "is_ours"),
    [
        ("opt", True),
        ("opt_125m", True),
        ("transformer_lm", False),
        ("optimal", False),
        (None, False),
    ],
)
def test_the_host_owns_runs_of_opt(model: Optional[str], is_ours: bool) -> None:
    assert (host_of(config(model)) is registered()) == is_ours
    assert registered() is not None


def test_without_a_host_fairseq_does_all(no_host: None) -> None:
    cfg = config("opt_125m")
    trainer = SimpleNamespace(cfg=cfg)
    assert host_of(cfg) is None
    assert parallel_doors.checking(asked("init"))(cfg) == "fairseq's init"
    assert parallel_doors.preparing(asked("main"))(cfg) == "fairseq's main"
    assert parallel_doors.sharding(asked("wrap"))(object()) == "fairseq's wrap"
    alone = parallel_doors.leaving_sharded_alone(asked("model"), asked("timeout"))
    assert alone(cfg, object()) == "fairseq's model"
    saved: list[Any] = []
    checkpoint_sets.saving(lambda *given: saved.append(given))(cfg, trainer, None, None)
    assert saved == [(cfg, trainer, None, None)]
    assert checkpoint_sets.reading(asked("state"))("checkpoint.pt") == "fairseq's state"
    member = checkpoint_sets.naming_a_member(asked("name"))
    assert member("checkpoint.pt", "", 0, 1) == "fairseq's name"


def test_without_a_host_there_are_no_model_parts(no_host: None) -> None:
    with pytest.raises(ImportError, match="--user-dir metaseq_plugin"):
        mpu.initialize_model_parallel(2)


def test_a_state_is_handed_over_within_the_block_only() -> None:
    read = checkpoint_sets.reading(asked("state"))
    state: dict[str, Any] = {"model": {}}
    with checkpoint_sets.handing_over("a.pt", state):
        assert read("a.pt") is state
        assert read("b.pt") == "fairseq's state"
    assert read("a.pt") == "fairseq's state"
