"""What is read one update late is what would have been read at once: log, ledger, checkpoints, weights and last words.

The runs compute on the CPU, where nothing is late unless it is asked for: ``late`` says that reading costs time. What
is on "the device" is then told apart by ``Device``, a mode that follows the tensors.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterable, Optional

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from metaseq_plugin.compat import late_statistics
from tests.fairseq_runs import Ended, train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

RUN = (
    "--max-update", 8, "--log-interval", 3, "--save-interval-updates", 5, "--log-format", "json",
    "--ledger-interval", 2,
)  # fmt: skip
# Of lines of the log and of the ledger: what no clock and no folder has a part in.
SAME = frozenset((
    "epoch", "update", "num_updates", "loss", "ppl", "wpb", "bsz", "lr", "gnorm", "clip", "tokens", "train_loss",
    "train_ppl", "train_wpb", "train_bsz", "train_num_updates", "train_lr", "train_gnorm", "train_clip",
    "train_tokens", "valid_loss", "valid_ppl", "valid_wpb", "valid_num_updates", "kind", "start", "updates",
    "ntokens", "done", "subset", "reason", "of", "value", "policy", "action", "names", "why", "norms", "noise_scale",
    "noise_trace", "gradient_square",
))  # fmt: skip


def late(rank: int = 0) -> None:
    late_statistics.reads_cost = lambda device: True


def both(first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
    def prepare(rank: int = 0) -> None:
        first(rank)
        second(rank)

    return prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("late") / "data", documents=120)


def unclocked(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in SAME}


def lines(path: Path) -> list[dict[str, Any]]:
    return [unclocked(json.loads(line)) for line in path.read_text().splitlines()]


def logged(ended: Ended) -> list[dict[str, Any]]:
    """The lines of numbers: of intervals, of epochs, of validations."""
    found = re.findall(r"\| (?:train_inner|train|valid) \| ({.*})", ended.output)
    return [unclocked(json.loads(line)) for line in found]


def meters(run: Path) -> list[Any]:
    """What the last checkpoint has of fairseq's meters, but those of time."""
    state = torch.load(run / "checkpoint_last.pt", weights_only=False)
    return [
        (name, key, float(value["sum"]), float(value["count"]))
        for name, found in state["extra_state"]["metrics"].items()
        for _, key, kind, value in found
        if kind == "AverageMeter" and value["count"] and key in SAME
    ]


def check_same(one: Path, other: Path) -> None:
    for file in ("updates.jsonl", "events.jsonl"):
        assert lines(one / "ledger" / file) == lines(other / "ledger" / file)


KINDS: dict[str, tuple[Any, ...]] = {
    "fp32": (),
    "bf16": ("--bf16",),
    "memory-efficient": ("--memory-efficient-bf16",),
    "no clipping, accumulated": ("--clip-norm", 0, "--update-freq", 2),
    "no ledger": ("--no-ledger",),
    "no save": ("--no-save",),
    "measured": ("--log-norms", 5, "--log-noise-scale", 5, "--update-freq", 2),
}


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "bf16" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_one_rank_does_and_says_the_same(kind: str, data: Path, tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path / name, weights=True) for name in ("a", "b")]
    options = (*RUN, *KINDS[kind])
    at_once = train(data, tmp_path / "run", *options, prepare=recorders[0])
    (tmp_path / "run").rename(tmp_path / "at-once")
    behind = train(data, tmp_path / "run", *options, prepare=both(late, recorders[1]))
    assert (at_once.status, behind.status) == (0, 0), behind
    assert logged(at_once) == logged(behind) != []
    assert recorders[0].rows() == recorders[1].rows()
    weights = [recorder.weights() for recorder in recorders]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    if kind not in ("no ledger", "no save"):
        check_same(tmp_path / "at-once", tmp_path / "run")
    if kind != "no save":
        assert meters(tmp_path / "at-once") == meters(tmp_path / "run") != []


LAYOUTS: dict[str, tuple[Any, ...]] = {
    "ddp": (),
    "fsdp": ("--ddp-backend", "fully_sharded", "--use-sharded-state"),
    "tp": ("--model-parallel-size", 2),
}


def gathering_norms(rank: int = 0) -> None:
    """As on a GPU, where ranks compare their norms."""
    from fairseq.trainer import Trainer

    build = Trainer._build_optimizer

    def building(trainer: Any) -> None:
        build(trainer)
        if trainer.data_parallel_world_size > 1:
            trainer._grad_norm_buf = torch.zeros(
                trainer.data_parallel_world_size, dtype=torch.float64
            )

    Trainer._build_optimizer = building


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_ranks_do_and_say_the_same(layout: str, data: Path, tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path / name, weights=True) for name in ("a", "b")]
    options = (*RUN, *LAYOUTS[layout])
    prepare = both(gathering_norms, recorders[0])
    at_once = train_ranks(2, data, tmp_path / "run", *options, prepare=prepare)
    (tmp_path / "run").rename(tmp_path / "at-once")
    prepare = both(both(late, gathering_norms), recorders[1])
    behind = train_ranks(2, data, tmp_path / "run", *options, prepare=prepare)
    assert [rank.status for rank in (*at_once, *behind)] == [0] * 4, behind
    assert logged(at_once[0]) == logged(behind[0]) != []
    for rank in (0, 1):
        assert recorders[0].rows(rank) == recorders[1].rows(rank)
    weights = [recorder.weights() for recorder in recorders]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    check_same(tmp_path / "at-once", tmp_path / "run")


class Poison:
    """From update ``at`` on the gradients of a weight are NaN, or those of one rank are another's times two."""

    def __init__(self, at: int, what: str, rank: int = 0) -> None:
        self.at, self.what, self.rank = at, what, rank

    def __call__(self, rank: int = 0) -> None:
        from fairseq.trainer import Trainer

        for_all, clip = self.rank < 0 or rank == self.rank, Trainer.clip_grad_norm

        def clip_grad_norm(trainer: Any, clip_norm: float) -> Tensor:
            if trainer.get_num_updates() + 1 >= self.at and for_all:
                factor = float("nan") if self.what == "nan" else 2.0
                for parameter in trainer.model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)
            norm: Tensor = clip(trainer, clip_norm)
            return norm

        Trainer.clip_grad_norm = clip_grad_norm


# At an update whose numbers are settled in it (a line of the log), before a save, and between.
@pytest.mark.parametrize(
    ("at", "options"),
    [
        (4, ()),
        *(pytest.param(at, (), marks=pytest.mark.slow) for at in (3, 5, 8)),
        *(
            pytest.param(4, (o,), marks=pytest.mark.slow)
            for o in ("--no-ledger", "--find-nonfinite")
        ),
    ],
)
def test_an_update_that_is_not_finite_ends_the_run_as_ever(
    at: int, options: tuple[Any, ...], data: Path, tmp_path: Path
) -> None:
    poison = Poison(at, "nan")
    at_once = train(data, tmp_path / "run", *RUN, *options, prepare=poison)
    (tmp_path / "run").rename(tmp_path / "at-once")
    behind = train(data, tmp_path / "run", *RUN, *options, prepare=both(late, poison))
    assert at_once.last_line == behind.last_line
    assert f"at update {at}" in behind.last_line
    assert at_once.status == behind.status != 0
    assert logged(at_once) == logged(behind)
    if "--no-ledger" not in options:
        check_same(tmp_path / "at-once", tmp_path / "run")
    names = [sorted(path.name for path in (tmp_path / run).iterdir()) for run in ("at-once", "run")]
    assert names[0] == names[1]


class Raises:
    """Once, where the forward pass of update ``at`` begins."""

    def __init__(self, at: int, words: str) -> None:
        self.at, self.words = at, words

    def __call__(self, rank: int = 0) -> None:
        from fairseq.tasks.fairseq_task import FairseqTask

        step, words = FairseqTask.train_step, [self.words]

        def train_step(
            task: Any,
            sample: Any,
            model: Any,
            criterion: Any,
            optimizer: Any,
            update_num: int,
            **more: Any,
        ) -> Any:
            if update_num + 1 == self.at and words:
                raise RuntimeError(words.pop())
            return step(task, sample, model, criterion, optimizer, update_num, **more)

        FairseqTask.train_step = train_step


@pytest.mark.parametrize(
    "words", ["a fault of the data", pytest.param("out of memory", marks=pytest.mark.slow)]
)
def test_what_was_made_before_an_error_is_told(words: str, data: Path, tmp_path: Path) -> None:
    """Of any error the run ends; of memory it goes on, and one update is not made."""
    error = Raises(5, words)
    at_once = train(data, tmp_path / "run", *RUN, prepare=error)
    (tmp_path / "run").rename(tmp_path / "at-once")
    behind = train(data, tmp_path / "run", *RUN, prepare=both(late, error))
    assert words in behind.output
    assert at_once.status == behind.status
    check_same(tmp_path / "at-once", tmp_path / "run")


def test_what_was_refused_is_what_the_device_refused() -> None:
    """Of an infinite loss that nobody watches the update is made, and counts."""
    counted: list[int] = []
    trainer = SimpleNamespace(
        _grad_norm_buf=None, get_num_updates=lambda: 4, set_num_updates=counted.append
    )
    logged = [{"loss": torch.tensor(torch.inf)}]
    for bad in (0.0, 1.0):
        numbers = late_statistics.Numbers(logged, 1, torch.tensor(bad), torch.ones(()), None)
        check = lambda trainer, norm: None  # noqa: E731
        held: Any = SimpleNamespace(update=None, check=check)
        late_statistics.judge(trainer, held, numbers)
    assert counted == [3]


def test_a_criterion_may_log_what_it_likes() -> None:
    """Several numbers in one tensor, and some that are on the host."""
    away, here = torch.ones((), device="meta"), torch.arange(2)
    numbers = late_statistics.Numbers([{"loss": away, "n": here, "m": 1}], 3, away, away, None)
    assert [tensor.device.type for tensor in numbers.tensors()] == ["meta"] * 3
    loss = torch.tensor([[1.0, 2.0]])
    read = late_statistics.Arriving([loss, here, torch.tensor(7.0)]).read()
    assert torch.equal(read[0], loss)
    assert torch.equal(read[1], here)
    found = numbers.on_host([read[0], torch.zeros(()), read[2]])
    assert found.logged[0]["n"] is here
    assert found.logged[0]["loss"] is read[0]
    assert (found.sample_size, float(found.norm), found.norms) == (3, 7.0, None)


def test_what_is_refused_changes_nothing() -> None:
    from metaseq_plugin.optim.adamw import Fp32StateAdamW

    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(torch.randn(5).to(dtype))
        optimizer = Fp32StateAdamW([weight], lr=0.1, fused=True)
        weight.grad = torch.ones_like(weight)
        optimizer.step(found_inf=torch.zeros(()))
        before = [weight.detach().clone(), *(v.clone() for v in optimizer.state[weight].values())]
        weight.grad = torch.full_like(weight, float("nan"))
        optimizer.step(factor=torch.tensor(float("nan")), found_inf=torch.ones(()))
        after = [weight.detach(), *optimizer.state[weight].values()]
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("twice", "gradients are inconsistent between workers"),
        ("nan", "at update 6, whose gradients are NaN or infinite"),
    ],
)
def test_ranks_that_disagree_end_as_ever(what: str, words: str, data: Path, tmp_path: Path) -> None:
    poison = both(gathering_norms, Poison(6, what, rank=1))
    said = []
    for prepare in (poison, both(late, poison)):
        ended = train_ranks(2, data, tmp_path / "run", *RUN, "--no-save", prepare=prepare)
        assert all(rank.status for rank in ended)
        said.append(any(words in rank.output for rank in ended))
    assert said == [True, True]


class Device(TorchDispatchMode):
    """Follows what is on "the device": weights, gradients, and what is computed from them.

    Attributes:
        reads: how often the host asked for a value of theirs.
        copies: how often some were sent to it.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.reads = self.copies = 0
        self.held = WeakTensorKeyDictionary(dict.fromkeys(parameters, True))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Optional[Any] = None
    ) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_device = any(tensor in self.held for tensor in tensors)
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            # The loss asks whether it is multiplied by 1 where asking is free.
            self.reads += is_device and not torch._C._current_graph_task_id() >= 0
        elif func is torch.ops.aten.copy_.default and args[0] not in self.held:
            self.copies += is_device
        elif is_device:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.held[leaf] = True
        return result


@pytest.mark.parametrize(("prepare", "reads", "copies"), [(lambda: None, 8, 0), (late, 0, 1)])
def test_what_is_read_of_an_update(
    prepare: Callable[[], None], reads: int, copies: int, data: Path, tmp_path: Path
) -> None:
    """Between lines of the log, of a run that keeps a ledger and watches for spikes."""
    counted = tmp_path / "counted"

    def counting() -> None:
        prepare()
        from fairseq.trainer import Trainer

        step = Trainer.train_step

        def train_step(trainer: Any, samples: list[Any], raise_oom: bool = False) -> Any:
            with Device(trainer.model.parameters()) as device:
                output = step(trainer, samples, raise_oom)
            with counted.open("a") as file:
                file.write(f"{device.reads} {device.copies}\n")
            return output

        Trainer.train_step = train_step

    options = ("--log-interval", 100, "--max-update", 4, "--no-epoch-checkpoints", "--clip-norm", 1)
    ended = train(data, tmp_path / "run", *options, prepare=counting)
    assert ended.status == 0, ended
    assert counted.read_text().splitlines()[1:] == [f"{reads} {copies}"] * 3
