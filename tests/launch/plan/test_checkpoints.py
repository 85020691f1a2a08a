"""Checkpoints: Young's and Daly's intervals by number, against a search and a simulation, and sizes of files."""

import random
from pathlib import Path

import pytest

from metaseq_plugin.launch.plan.checkpoints import DEVICE_MTBF_HOURS, daly, lost_share, young
from tests.fairseq_runs import train, write_data
from tests.launch.plan.plans import OPT_175B, plan

HOUR = 3600.0


def test_by_hand() -> None:
    """δ 5 min, M 24 h: Young √(2·5·1440) = 120 min."""
    assert young(5, 1440) == 120
    ratio = 5 / 2880
    assert daly(5, 1440) == pytest.approx(120 * (1 + ratio**0.5 / 3 + ratio / 9) - 5)
    assert (
        daly(10, 5) == daly(100, 5) == 5
    )  # where saving takes twice as long as the time between failures


@pytest.mark.parametrize("save", [10.0, 100.0, 1000.0])
@pytest.mark.parametrize("mtbf", [1 * HOUR, 10 * HOUR, 100 * HOUR])
def test_no_other_interval_loses_less(save: float, mtbf: float) -> None:
    best = lost_share(daly(save, mtbf), save, mtbf, 900)
    tried = min(lost_share(save * 1.02**step, save, mtbf, 900) for step in range(600))
    assert best <= tried * 1.001


def test_the_lost_share_is_what_a_simulation_loses() -> None:
    save, mtbf, restart, interval = 60.0, 2 * HOUR, 300.0, 1000.0
    rng = random.Random(1)
    clock = trained = 0.0
    next_failure = rng.expovariate(1 / mtbf)
    while trained < 20_000 * interval:
        if clock + interval + save <= next_failure:
            clock += interval + save
            trained += interval
            continue
        clock = next_failure  # what was done since the last save is lost
        while True:  # starting again may fail, too
            next_failure = clock + rng.expovariate(1 / mtbf)
            if clock + restart <= next_failure:
                clock += restart
                break
            clock = next_failure
    share = lost_share(interval, save, mtbf, restart)
    assert 1 - trained / clock == pytest.approx(share, rel=0.05)


def test_failures_that_leave_nothing() -> None:
    assert lost_share(1.0, 1e9, 1.0, 1.0) == 1.0
    assert plan(f"{OPT_175B} --mtbf 0.0001").wall_days == float("inf")


def test_opt_175b() -> None:
    saves = plan(OPT_175B).checkpoints
    assert saves.num_writers == 992
    assert saves.num_bytes == pytest.approx(174_604_468_224 * 12, rel=2e-3)
    assert pytest.approx(13_600, rel=0.001) == DEVICE_MTBF_HOURS
    assert saves.mtbf_seconds == pytest.approx(DEVICE_MTBF_HOURS * HOUR / 992)
    assert plan(f"{OPT_175B} --mtbf 10").checkpoints.mtbf_seconds == 10 * HOUR
    assert plan(f"{OPT_175B} --device-mtbf 9920").checkpoints.mtbf_seconds == 10 * HOUR


# Options of a run -> those of its plan.
FORMS = {
    "fp32": ((), "--fp32"),
    "bf16 and its masters": (("--bf16",), "--bf16"),
    "bf16 alone": (("--memory-efficient-bf16",), "--memory-efficient-bf16"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_real_checkpoint_is_as_large(form: str, tmp_path: Path) -> None:
    """But for what is not elements: names, settings and counts, which a larger model hides."""
    run_options, options = FORMS[form]
    data = write_data(tmp_path / "data", vocab_size=1000, documents=20)
    model = "--decoder-layers 2 --decoder-embed-dim 256 --decoder-attention-heads 4 --decoder-max-positions 32"
    ended = train(data, tmp_path / "run", "--max-update", 1, *model.split(), *run_options)
    assert ended.status == 0, ended.output
    said = plan(
        f"--arch opt {model} --gpus 1 --gpu a100-80gb --vocab-size 1000 "
        f"--tokens-per-sample 32 --batch-tokens 32 --zero 0 --mfu 0.1 {options}"
    )
    written = (tmp_path / "run/checkpoint_last.pt").stat().st_size
    assert written == pytest.approx(said.checkpoints.num_bytes, rel=0.02)
