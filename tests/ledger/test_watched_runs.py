"""What ``--on-spike`` says is done: spikes planted in real runs, on one rank and on two that share a model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fairseq_runs import Ended, train
from tests.rank_runs import train_ranks
from tests.recorder import Recorder
from tests.spiked import QUICK, at_update, both, write_counting
from tests.tasks.streaming_data import STREAMING, write_streaming_data

pytestmark = pytest.mark.slow

FSDP = ("--ddp-backend", "fully_sharded", "--use-sharded-state")
LAYOUTS: dict[str, tuple[Any, ...]] = {"fsdp2": FSDP, "tp2": ("--model-parallel-size", 2)}
POISONED = 50  # the update that something is done to


def poison(trainer: Any, samples: list[Any]) -> None:
    """Targets that nothing leads to."""
    for sample in samples:
        generator = torch.Generator().manual_seed(0)
        high = int(sample["target"].max()) + 1
        sample["target"] = torch.randint(4, high, sample["target"].shape, generator=generator)


def raise_rate(trainer: Any, samples: list[Any]) -> None:
    trainer.optimizer.set_lr(100 * trainer.get_lr())


def events(run: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = (run / "ledger/events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] in kinds]


def check_same(recorder: Recorder, other: Recorder) -> None:
    """The last update of both was the same, and what it made of the weights."""
    assert recorder.rows()[-1] == other.rows()[-1]
    kept, others = (torch.load(r._file("weights", 0))["tensors"] for r in (recorder, other))
    assert all(torch.equal(kept[name], others[name]) for name in kept)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counting(tmp_path_factory.mktemp("watched") / "data", documents=300, noise=0.02)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_streaming_data(tmp_path_factory.mktemp("watched") / "streamed", documents=120)


@pytest.mark.parametrize("kind", ["binarized", "streaming"])
def test_a_run_that_went_back_is_the_run_that_was_told_beforehand(
    kind: str, data: Path, streamed: Path, tmp_path: Path
) -> None:
    """A poisoned batch: seen in its update; the end is bit-equal, and as good as that without the poison."""
    options = [*QUICK, "--max-update", 80, "--log-format", "json", "--log-interval", 80]
    options += [] if kind == "binarized" else [*STREAMING]
    where = data if kind == "binarized" else streamed
    rewound, told, clean = (Recorder(tmp_path / name, weights=True) for name in "abc")
    ended = train(
        where, tmp_path / "rewound", *options, "--on-spike", "rewind", "--rewind-skip", 6,
        prepare=both(rewound, at_update(poison, POISONED)),
    )  # fmt: skip
    assert ended.status == 0, ended
    (spike,) = events(tmp_path / "rewound", "spike")
    assert (spike["update"], spike["of"], spike["action"]) == (POISONED, "loss", "rewound")
    (rewind,) = events(tmp_path / "rewound", "rewind")
    assert (rewind["from"], rewind["to"]) == (POISONED - 1, 40)
    assert rewind["skipped_updates"] == [47, 52]
    made = [row["update"] for row in rewound.rows() if row["loss"] is not None]
    assert made == [*range(1, POISONED), *range(41, 81)]

    for name, recorder, skips in (
        ("told", told, ("--skip-batches", "47-52")),
        ("clean", clean, ()),
    ):
        ended = train(where, tmp_path / name, *options, *skips, prepare=recorder)
        assert ended.status == 0, ended
    check_same(rewound, told)
    loss, without = (float.fromhex(r.rows()[-1]["loss"]) for r in (rewound, clean))
    # The last batches are others; batches of one run differ by as much.
    losses = [float.fromhex(row["loss"]) for row in clean.rows()[-20:]]
    assert abs(loss - without) <= max(losses) - min(losses)


def test_a_learning_rate_of_a_hundred_times_is_noticed_and_undone(
    data: Path, tmp_path: Path
) -> None:
    """For three updates from one behind which a checkpoint is saved: that is not gone back to."""
    run, recorder = tmp_path / "run", Recorder(tmp_path / "rows", weights=True)
    options = (*QUICK, "--max-update", 80, "--on-spike", "rewind", "--rewind-skip", 6)
    wrong = at_update(raise_rate, POISONED, POISONED + 1, POISONED + 2)
    ended = train(data, run, *options, prepare=both(recorder, wrong))
    assert ended.status == 0, ended
    (spike,), (rewind,) = events(run, "spike"), events(run, "rewind")
    assert spike["update"] in (POISONED + 1, POISONED + 2)
    assert rewind["to"] == 40
    assert "checkpoint_1_50" in events(run, "save")[4]["names"]
    first, last = rewind["skipped_updates"]
    told = Recorder(tmp_path / "told", weights=True)
    ended = train(data, tmp_path / "b", *options, "--skip-batches", f"{first}-{last}", prepare=told)
    assert ended.status == 0, ended
    check_same(recorder, told)


def test_a_rewind_survives_a_restart_and_lowers_the_rate(data: Path, tmp_path: Path) -> None:
    """A run that is killed before it has saved anything after its rewind: what it had saved before is not used."""
    run, options = tmp_path / "run", (*QUICK, "--max-update", 70, "--rewind-skip", 6)
    policy = ("--on-spike", "rewind", "--rewind-lr-factor", 0.5)

    def dying(rank: int = 0) -> None:
        from fairseq.trainer import Trainer

        train_step, made = Trainer.train_step, 0

        def step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            if made == POISONED + 1 + 5:  # five updates after the rewind, to update 45
                raise SystemExit(9)
            return train_step(trainer, *args, **kwargs)

        Trainer.train_step = step

    wrong = at_update(raise_rate, POISONED, POISONED + 1)
    assert train(data, run, *options, *policy, prepare=both(wrong, dying)).status == 9
    assert events(run, "rewind")[0]["to"] == 40
    recorder, told = (Recorder(tmp_path / name, weights=True) for name in ("rows", "told"))
    ended = train(data, run, *options, *policy, prepare=recorder)
    assert ended.status == 0, ended
    assert "@ 40 updates" in ended.output
    rows = recorder.rows()
    assert [row["update"] for row in rows] == list(range(41, 71))
    assert {float.fromhex(row["lr"]) for row in rows} == {0.005}

    # Told beforehand: from update 40 on at half the rate, past the same batches.
    first, last = events(run, "rewind")[0]["skipped_updates"]
    other = (*options, "--skip-batches", f"{first}-{last}")
    assert train(data, tmp_path / "b", *options, "--max-update", 40).status == 0
    ended = train(data, tmp_path / "b", *other, "--lr", 0.005, prepare=told)
    assert ended.status == 0, ended
    check_same(recorder, told)


def test_rewinds_are_bounded(data: Path, tmp_path: Path) -> None:
    """A run that spikes whatever is done ends with exit status 2, and says how often it went back."""

    def always(rank: int = 0) -> None:
        from fairseq.trainer import Trainer

        train_step = Trainer.train_step

        def step(trainer: Any, samples: Any, raise_oom: bool = False) -> Any:
            if trainer.get_num_updates() + 1 >= POISONED:
                poison(trainer, samples)
            return train_step(trainer, samples, raise_oom)

        Trainer.train_step = step

    policy = ("--on-spike", "rewind", "--max-rewinds", 2, "--rewind-skip", 2)
    ended = train(data, tmp_path / "run", *QUICK, "--max-update", 80, *policy, prepare=always)
    assert ended.status == 2, ended
    assert "it has gone back 2 times" in ended.last_line
    assert len(events(tmp_path / "run", "rewind")) == 2
    assert events(tmp_path / "run", "spike")[-1]["action"] == "stopped"


@pytest.mark.parametrize("policy", ["log", "skip", "stop"])
def test_the_other_policies_do_what_they_say(policy: str, data: Path, tmp_path: Path) -> None:
    run, recorder = tmp_path / "run", Recorder(tmp_path / "rows", weights=True)
    options = (*QUICK, "--max-update", 60, "--on-spike", policy)
    kept: dict[str, Any] = {}

    def compared(rank: int = 0) -> None:
        from fairseq.trainer import Trainer

        train_step = Trainer.train_step

        def step(trainer: Any, samples: Any, raise_oom: bool = False) -> Any:
            before = [p.detach().clone() for p in trainer.model.parameters()]
            moments = {
                k: v["exp_avg"].clone() for k, v in trainer.optimizer.optimizer.state.items()
            }
            output = train_step(trainer, samples, raise_oom)
            if trainer.get_num_updates() == POISONED:
                state = trainer.optimizer.optimizer.state
                kept["weights"] = all(map(torch.equal, before, trainer.model.parameters()))
                kept["moments"] = all(
                    torch.equal(v, state[k]["exp_avg"]) for k, v in moments.items()
                )
                (run / "kept").write_text(json.dumps(kept))
            return output

        Trainer.train_step = step

    ended = train(
        data, run, *options, prepare=both(compared, recorder, at_update(poison, POISONED))
    )
    (spike,) = events(run, "spike")
    assert (spike["update"], spike["of"], spike["policy"]) == (POISONED, "loss", policy)
    assert spike["z"] > 8
    rows = {row["update"]: row for row in recorder.rows()}
    if policy == "stop":
        assert ended.status == 2, ended
        assert f"update {POISONED}: the loss is" in ended.last_line
        assert spike["action"] == "stopped"
        assert "Traceback" not in ended.output
        assert max(rows) == POISONED - 1
        return
    assert ended.status == 0, ended
    is_kept = policy == "skip"
    assert json.loads((run / "kept").read_text()) == {"weights": is_kept, "moments": is_kept}
    assert max(rows) == 60
    assert (rows[POISONED]["loss"] is None) == is_kept
    assert [event["why"] for event in events(run, "skipped")] == ["spike"] * is_kept
    assert not events(run, "overflow")


def nan_in_rank_1(update: int) -> Any:
    """For ``train_ranks``: the gradient of one module's output is NaN on rank 1, whenever update ``update`` is made."""

    def prepare(rank: int) -> None:
        from fairseq.trainer import Trainer

        from metaseq_plugin.layout.held import unwrapped

        train_step = Trainer.train_step

        def spoil(module: Any, inputs: Any, output: Any) -> None:
            output.register_hook(lambda grad: grad * float("nan"))

        def step(trainer: Any, samples: Any, raise_oom: bool = False) -> Any:
            is_now = rank == 1 and trainer.get_num_updates() + 1 == update
            model: Any = unwrapped(trainer.model)
            module = model.decoder.layers[1].fc1
            handle = module.register_forward_hook(spoil) if is_now else None
            try:
                return train_step(trainer, samples, raise_oom)
            finally:
                if handle is not None:
                    handle.remove()

        Trainer.train_step = step

    return prepare


def statuses(ended: list[Ended]) -> list[int]:
    return [rank.status for rank in ended]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_in_one_rank_is_skipped_by_all_and_named(
    layout: str, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = (
        *QUICK,
        "--max-update",
        14,
        "--on-spike",
        "skip",
        "--find-nonfinite",
        *LAYOUTS[layout],
    )
    ended = train_ranks(2, data, run, *options, prepare=nan_in_rank_1(12))
    assert statuses(ended) == [0, 0], ended
    (nonfinite,), (spike,) = events(run, "nonfinite"), events(run, "spike")
    assert nonfinite["module"] == "decoder.layers.1.fc1"
    assert nonfinite["parameter"] == "decoder.layers.1.fc1.weight"
    assert nonfinite["is_gradient"]
    assert (spike["update"], spike["of"], spike["value"]) == (12, "gnorm", None)
    assert [event["update"] for event in events(run, "end")] == [14]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_in_one_rank_sends_all_back(layout: str, data: Path, tmp_path: Path) -> None:
    """Once, for it is not there again; both ranks end with what a run has that was told to skip those batches."""
    recorder, told = (Recorder(tmp_path / name, weights=True) for name in ("rows", "told"))
    options = (*QUICK, *LAYOUTS[layout], "--max-update", 20, "--rewind-skip", 2)
    policy = ("--on-spike", "rewind")
    ended = train_ranks(
        2, data, tmp_path / "run", *options, *policy, prepare=both(recorder, nan_once(14))
    )
    assert statuses(ended) == [0, 0], ended
    (rewind,) = events(tmp_path / "run", "rewind")
    assert (rewind["from"], rewind["to"], rewind["skipped_updates"]) == (13, 10, [13, 14])
    skips = ("--skip-batches", "13-14")
    ended = train_ranks(2, data, tmp_path / "told-run", *options, *skips, prepare=told)
    assert statuses(ended) == [0, 0], ended
    check_same(recorder, told)
    assert recorder.rows(rank=1)[-1] == told.rows(rank=1)[-1]


def nan_once(update: int) -> Any:
    """As ``nan_in_rank_1``, the first time only."""

    def prepare(rank: int) -> None:
        def spoil(trainer: Any, samples: Any) -> None:
            from metaseq_plugin.layout.held import unwrapped

            model: Any = unwrapped(trainer.model)
            module = model.decoder.layers[1].fc1

            def once(module: Any, inputs: Any, output: Any) -> None:
                handle.remove()
                output.register_hook(lambda grad: grad * float("nan"))

            handle = module.register_forward_hook(once)

        if rank == 1:
            at_update(spoil, update)(rank)

    return prepare


@pytest.mark.parametrize("find", [True, False])
def test_a_nan_ends_a_run_that_only_logs(find: bool, data: Path, tmp_path: Path) -> None:
    """In a weight: the module that gives on the first NaN is named, if asked for."""

    def spoil(trainer: Any, samples: Any) -> None:
        with torch.no_grad():
            trainer.get_model().decoder.layers[1].fc2.weight[0, 0] = float("nan")

    options = (*QUICK, "--max-update", 14, *(("--find-nonfinite",) if find else ()))
    ended = train(data, tmp_path / "run", *options, prepare=at_update(spoil, 12))
    assert ended.status == 2, ended
    assert "whose gradients are NaN or infinite" in ended.last_line
    where = (
        "that of decoder.layers.1.fc2, on rank 0, whose decoder.layers.1.fc2.weight is not finite"
    )
    assert (where in ended.last_line) == find
    assert "Traceback" not in ended.output
    assert events(tmp_path / "run", "spike")[0]["action"] == "stopped"


@pytest.mark.parametrize("policy", ["log", "stop"])
def test_a_loss_that_is_nan_ends_a_run_whose_gradients_are_finite(
    policy: str, data: Path, tmp_path: Path
) -> None:
    """The ledger says that it stopped, and it did: the update is not made, and nothing of it is saved."""

    def spoil(trainer: Any, samples: Any) -> None:
        def log_nan(module: Any, inputs: Any, output: Any) -> None:
            output[2]["loss"] = torch.tensor(float("nan"))

        trainer.criterion.register_forward_hook(log_nan)

    options = (*QUICK, "--max-update", 14, "--on-spike", policy)
    ended = train(data, tmp_path / "run", *options, prepare=at_update(spoil, 12))
    assert ended.status == 2, ended
    assert "at update 12, whose loss is NaN or infinite in float32. Lower --lr" in ended.last_line
    assert "Traceback" not in ended.output
    (spike,), (end,) = events(tmp_path / "run", "spike"), events(tmp_path / "run", "end")
    assert (spike["update"], spike["of"], spike["value"]) == (12, "loss", None)
    assert (spike["policy"], spike["action"]) == (policy, "stopped")
    assert end["update"] == 11
    assert "whose loss is NaN" in end["reason"]


def test_ten_ordinary_runs_have_no_spike(tmp_path: Path) -> None:
    """Of different sizes, seeds, batches, rates and warm-ups, on data that is from regular to half at random."""
    sizes = (
        # layers, width, rate, warm-up, batch, noise
        (2, 16, 0.01, 0, 4, 0.0), (2, 16, 0.01, 50, 4, 0.1), (1, 32, 0.003, 20, 2, 0.2),
        (2, 32, 0.03, 100, 8, 0.1), (3, 16, 0.001, 10, 1, 0.3), (2, 64, 0.003, 30, 4, 0.0),
        (4, 32, 0.003, 40, 4, 0.05), (2, 16, 0.05, 60, 2, 0.1), (1, 16, 0.1, 0, 4, 0.2),
        (2, 48, 0.005, 20, 16, 0.5),
    )  # fmt: skip
    for seed, (layers, width, rate, warm_up, batch, noise) in enumerate(sizes):
        run = tmp_path / f"run-{seed}"
        written = write_counting(tmp_path / f"data-{seed}", seed=seed, noise=noise)
        ended = train(
            written, run, "--seed", seed, "--decoder-layers", layers, "--decoder-embed-dim", width,
            "--lr", rate, "--lr-scheduler", "polynomial_decay", "--warmup-updates", warm_up,
            "--total-num-update", 200, "--max-update", 200, "--batch-size", batch,
            "--disable-validation", "--num-workers", 0, "--no-epoch-checkpoints",
        )  # fmt: skip
        assert ended.status == 0, ended
        assert not events(run, "spike"), (seed, events(run, "spike"))
        assert not re.search("robust standard deviations", ended.output)
