"""Options of watching that contradict each other, or that nobody can watch by: one sentence each."""

from types import SimpleNamespace
from typing import Any, Sequence

import pytest
from omegaconf import OmegaConf

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.options import LedgerOptions, check_watching
from metaseq_plugin.ledger.spikes import LEARNING


def check(
    no_save: bool = False,
    schedule: str = "polynomial_decay",
    layout: Sequence[Any] = (1, 1, "pytorch_ddp"),
    parts: Sequence[Any] = (1, False, False),
    **changes: Any,
) -> None:
    """``layout``: --update-freq, ranks, --ddp-backend; ``parts``: of the model, cut sequences, --use-bmuf."""
    update_freq, ranks, backend = layout
    model_parts, is_cut, is_bmuf = parts
    task = OmegaConf.structured(LedgerOptions(**changes))
    check_watching(
        SimpleNamespace(
            task=task,
            checkpoint=SimpleNamespace(no_save=no_save),
            lr_scheduler=SimpleNamespace(_name=schedule),
            optimization=SimpleNamespace(update_freq=[update_freq], use_bmuf=is_bmuf),
            distributed_training=SimpleNamespace(distributed_world_size=ranks, ddp_backend=backend),
            common=SimpleNamespace(model_parallel_size=model_parts),
            model=OmegaConf.create({"sequence_parallel": is_cut}),
        )
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"on_spike": "rewind", "rewind_lr_factor": 0.5},
        {"on_spike": "skip", "no_save": True},
        {"no_ledger": True},
        {"no_ledger": True, "find_nonfinite": True},
        {"spike_window": LEARNING},
        {"schedule": "reduce_lr_on_plateau", "on_spike": "rewind"},
        {"log_noise_scale": 10, "layout": (2, 1, "pytorch_ddp")},
        {"log_noise_scale": 10, "layout": (1, 2, "pytorch_ddp")},
        {"log_noise_scale": 10, "layout": (1, 2, "legacy_ddp")},
        {"log_noise_scale": 10, "layout": (1, 4, "pytorch_ddp"), "parts": (2, False, False)},
        {"log_noise_scale": 10, "layout": (2, 2, "fully_sharded")},
    ],
)
def test_these_go_together(changes: dict[str, Any]) -> None:
    check(**changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spike_z": 0.0}, "`--spike-z` must be above 0, but is 0.0. Set 8."),
        ({"spike_z": float("nan")}, "`--spike-z` must be above 0, but is nan"),
        ({"spike_window": 31}, "`--spike-window` must be at least 32, but is 31. Set 128."),
        ({"rewind_skip": 0}, "`--rewind-skip` must be at least 1, but is 0"),
        ({"rewind_lr_factor": 1.5}, "`--rewind-lr-factor` must be above 0 and at most 1, but is 1.5"),
        ({"rewind_lr_factor": 0.0}, "`--rewind-lr-factor` must be above 0 and at most 1, but is 0.0"),
        ({"max_rewinds": 0}, "`--max-rewinds` must be at least 1, but is 0. Set --on-spike stop for none."),
        ({"log_norms": -1}, "`--log-norms` must be at least 0, but is -1"),
        ({"log_noise_scale": -1}, "`--log-noise-scale` must be at least 0, but is -1"),
        ({"log_noise_scale": 1, "no_ledger": True}, "`--no-ledger` must be left out with --log-noise-scale"),
        ({"log_noise_scale": 1}, "or several data-parallel ranks, but both are 1"),
        (
            {"log_noise_scale": 1, "layout": (1, 2, "pytorch_ddp"), "parts": (2, False, False)},
            "or several data-parallel ranks, but both are 1",
        ),
        (
            {"log_noise_scale": 1, "layout": (1, 4, "fully_sharded")},
            "--update-freq 2 or more where --ddp-backend is fully_sharded, but that is 1",
        ),
        ({"log_noise_scale": 1, "layout": (2, 2, "slowmo")}, "but --ddp-backend is slowmo. Set pytorch_ddp"),
        (
            {"log_noise_scale": 1, "layout": (2, 2, "pytorch_ddp"), "parts": (1, False, True)},
            "but --ddp-backend is pytorch_ddp with --use-bmuf",
        ),
        (
            {"log_noise_scale": 1, "layout": (2, 2, "pytorch_ddp"), "parts": (2, True, False)},
            "must come without --sequence-parallel",
        ),
        ({"no_ledger": True, "on_spike": "skip"}, "`--no-ledger` must be left out with --on-spike skip"),
        ({"no_ledger": True, "log_norms": 10}, "`--no-ledger` must be left out with --log-norms"),
        ({"no_save": True, "on_spike": "rewind"}, "`--no-save` must be left out with --on-spike rewind"),
        (
            {"schedule": "reduce_lr_on_plateau", "rewind_lr_factor": 0.5},
            "`--rewind-lr-factor` must be 1 with --lr-scheduler reduce_lr_on_plateau, but is 0.5",
        ),
    ],
)  # fmt: skip
def test_these_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        check(**changes)
    assert sentence in str(error.value)


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(UserError) as error:
        check(spike_z=-1.0, rewind_skip=-1)
    assert str(error.value).count("must be") == 2
