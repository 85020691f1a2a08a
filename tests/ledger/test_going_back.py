"""Where a run goes back to, and where it cannot: told by hand, without a run."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from omegaconf import OmegaConf

from metaseq_plugin.compat.checkpoint_errors import DEFAULT_RESTORE_FILE
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.watched_updates import GoBack
from metaseq_plugin.layout.peers import ALONE
from metaseq_plugin.ledger.options import LedgerOptions, OnSpike
from metaseq_plugin.ledger.watch import Watch
from metaseq_plugin.ledger.watch_file import Remembered
from tests.checkpoint.cut_sets import Place, save_set, whole_state


def watch_of(
    run: Path, restore_file: str = DEFAULT_RESTORE_FILE, policy: OnSpike = OnSpike.rewind
) -> Watch:
    task = OmegaConf.structured(LedgerOptions(on_spike=policy))
    checkpoint = {
        "save_dir": str(run), "no_save": False, "restore_file": restore_file, "continue_once": None,
    }  # fmt: skip
    return Watch(
        OmegaConf.create({"task": task, "checkpoint": checkpoint}), ALONE, Remembered([], [])
    )


def nan_at(number: int) -> Any:
    trainer = SimpleNamespace(checkpoint_suffix="")
    logged = [{"loss": math.nan, "sample_size": 1}]
    return SimpleNamespace(number=number, trainer=trainer, logged=logged)


class Common(NamedTuple):
    """fairseq's options of precision."""

    bf16: bool = False
    memory_efficient_bf16: bool = False
    fp16: bool = False
    memory_efficient_fp16: bool = False
    amp: bool = False


@pytest.mark.parametrize("policy", [OnSpike.log, OnSpike.stop])
@pytest.mark.parametrize(
    ("common", "said_in"),
    [(Common(), "float32"), (Common(bf16=True), "bfloat16"), (Common(fp16=True), "float16")],
)
@pytest.mark.parametrize("grad_norm", [1.0, math.inf])
def test_a_loss_that_is_nan_ends_the_run_whatever_its_gradients_are(
    policy: OnSpike, common: Common, said_in: str, grad_norm: float, tmp_path: Path
) -> None:
    """The trainer itself looks at gradients only, and would go on."""
    watch, nan = watch_of(tmp_path, policy=policy), nan_at(201)
    optimization = SimpleNamespace(clip_norm=0.0)
    nan.trainer = SimpleNamespace(
        cfg=SimpleNamespace(common=common, optimization=optimization),
        get_lr=lambda: 0.1, get_num_updates=lambda: 200,
    )  # fmt: skip
    what = "loss is" if grad_norm == 1.0 else "gradients are"
    with pytest.raises(UserError) as error:
        watch.judge(nan, grad_norm)
    assert str(error.value).endswith(
        f"at update 201, whose {what} NaN or infinite in {said_in}. Lower --lr, raise --warmup-updates, or set "
        "--clip-norm."
    )


def save(run: Path, updates: int) -> None:
    whole = whole_state()
    whole["optimizer_history"][-1]["num_updates"] = updates
    save_set(Place(run, ("checkpoint_last",)), whole)


@pytest.mark.parametrize(
    ("began", "saved", "to"),
    [(0, 198, 198), (0, 199, 0), (100, 198, 198), (199, 199, 199)],
)  # fmt: skip
def test_it_goes_back_to_the_newest_good_checkpoint_or_to_its_start(
    began: int, saved: int, to: int, tmp_path: Path
) -> None:
    watch = watch_of(tmp_path)
    save(tmp_path, saved)
    watch.begins(began)
    with pytest.raises(GoBack):
        watch.judge(nan_at(201), 1.0)
    assert watch.rewinds[-1]["to"] == to
    watch.begins(to)


def test_a_start_whose_checkpoint_is_deleted_is_not_gone_back_to(tmp_path: Path) -> None:
    """It would begin at update 0, without a word."""
    watch = watch_of(tmp_path)
    watch.begins(100)
    save(tmp_path, 200)  # over that of update 100
    with pytest.raises(UserError, match="must find a checkpoint from before the spike, but"):
        watch.judge(nan_at(201), 1.0)
    assert not watch.rewinds


def test_a_checkpoint_that_is_elsewhere_is_still_there(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, "elsewhere/checkpoint_1_100.pt")
    watch.begins(100)
    save(tmp_path, 200)
    with pytest.raises(GoBack):
        watch.judge(nan_at(201), 1.0)
    assert watch.rewinds[-1]["to"] == 100


def test_a_run_that_comes_back_elsewhere_is_refused(tmp_path: Path) -> None:
    """As where the checkpoint is damaged, and --skip-damaged-checkpoints goes to the one before it."""
    watch = watch_of(tmp_path)
    save(tmp_path, 198)
    watch.begins(0)
    with pytest.raises(GoBack):
        watch.judge(nan_at(201), 1.0)
    with pytest.raises(UserError, match=r"of update 198 in .*, but the newest .* is of update 150"):
        watch.begins(150)
