"""Options that say where a run computes and how it is kept alive: alone, and on top of what a sweep file says."""

import argparse
from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.resource_options import (
    add_resource_options,
    check_checkpoint,
    override,
    resources,
    survival,
)
from metaseq_plugin.launch.spec import Launch, Resources, RunSpec, Survival


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_resource_options(parser)
    return parser.parse_args(words)


def test_what_is_given_is_taken() -> None:
    args = parsed(
        *("--executor", "slurm", "--nodes", "124", "--gpus-per-node", "8", "--cpus-per-rank", "12", "--time", "3-00"),
        *("--launcher", "torchrun", "--partition", "gpu", "--mem", "0", "--max-restarts", "0", "--backoff", "1.5"),
        *("--hang-factor", "0", "--hang-seconds", "60", "--signal-seconds", "900"),
    )  # fmt: skip
    slurm = {"partition": "gpu", "mem": "0"}
    assert resources(args) == Resources("slurm", 124, 8, True, 12, 4320, "torchrun", slurm)
    assert survival(args) == Survival(0, 1.5, 0.0, 60.0, 900)


def test_what_is_not_given_has_one_default() -> None:
    assert resources(parsed("--gpus-per-node", "1")) == Resources()
    assert resources(parsed("--cpu")) == Resources(uses_gpus=False)
    assert survival(parsed()) == Survival()


def test_a_sweep_is_launched_elsewhere() -> None:
    before = Launch(
        RunSpec("data", Path("runs/a"), {}),
        Resources("slurm", 2, 8, minutes=10, slurm={"partition": "a", "qos": "b"}),
        Survival(max_restarts=3),
    )
    assert override(before, parsed()) == before
    after = override(before, parsed("--partition", "c", "--time", "20", "--backoff", "7"))
    assert after.resources == Resources(
        "slurm", 2, 8, minutes=20, slurm={"partition": "c", "qos": "b"}
    )
    assert after.survival == Survival(max_restarts=3, backoff=7.0)
    assert after.spec == before.spec
    with pytest.raises(UserError, match="`--signal-seconds` must be less than --time"):
        override(before, parsed("--time", "3"))


@pytest.mark.parametrize("words", [("--nodes", "3"), ("--gpus-per-node", "4"), ("--cpu",)])
def test_a_sweep_keeps_the_ranks_that_its_batches_are_shared_out_to(words: tuple[str, ...]) -> None:
    launch = Launch(RunSpec("data", Path("runs/a"), {}), Resources(), Survival())
    with pytest.raises(UserError, match=f"`{words[0]}` must stand in the sweep file"):
        override(launch, parsed(*words))


def test_a_checkpoint_of_several_files_is_there(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_last.pt"
    with pytest.raises(
        UserError, match=r"`--restore-file` must name a checkpoint, but .* does not exist"
    ):
        check_checkpoint(path)
    (tmp_path / "checkpoint_last-model_part-0-shard0.pt").touch()
    check_checkpoint(path)
