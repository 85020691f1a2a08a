"""Sets through the stock commands: what is saved, what a run starts from, and what is refused."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, NamedTuple, Optional

import pytest
import torch

from metaseq_plugin.checkpoint.manifest import SetName
from metaseq_plugin.checkpoint.reshard import reshard
from metaseq_plugin.checkpoint.save import stems_to_save
from metaseq_plugin.compat import checkpoint_sets, host
from metaseq_plugin.hub import OPT
from metaseq_plugin.storage import atomic
from tests.checkpoint.test_retention import options
from tests.fairseq_runs import Ended, run_fairseq, train, write_data

OPTIONS = ("--disable-validation", "--save-interval-updates", 2, "--dropout", 0.1)


class Run(NamedTuple):
    data: Path
    save_dir: Path

    def copy(self, folder: Path) -> "Run":
        """The same run in another folder, its hard links cut."""
        shutil.copytree(self.save_dir, folder)
        return Run(self.data, folder)

    def train(self, updates: int, *options: Any, **run_options: Any) -> Ended:
        return train(
            self.data, self.save_dir, *OPTIONS, "--max-update", updates, *options, **run_options
        )

    def state(self, stem: str = "checkpoint_last") -> dict[str, Any]:
        return torch.load(self.save_dir / f"{stem}.pt", weights_only=True)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Stopped after 5 updates, with sets of 2 and 4."""
    folder = tmp_path_factory.mktemp("five")
    run = Run(write_data(folder / "data"), folder / "run")
    ended = run.train(5)
    assert ended.status == 0, ended.output
    return run


@pytest.fixture(scope="module")
def eight(five: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run, never stopped before its 8 updates."""
    run = Run(five.data, tmp_path_factory.mktemp("eight") / "run")
    assert run.train(8).status == 0
    return run


def assert_same_end(found: Run, expected: Run) -> None:
    one, other = found.state(), expected.state()
    assert one["optimizer_history"][-1]["num_updates"] == 8
    for name, tensor in other["model"].items():
        assert torch.equal(one["model"][name], tensor), name
    for index, entry in other["last_optimizer_state"]["state"].items():
        for key, tensor in entry.items():
            assert torch.equal(one["last_optimizer_state"]["state"][index][key], tensor), key


def loaded(ended: Ended) -> list[tuple[str, int]]:
    """(file, updates) of what a run said that it loaded."""
    assert ended.status == 0, ended.output
    found = re.findall(r"Loaded checkpoint (\S+) \(epoch \d+ @ (\d+) updates\)", ended.output)
    return [(Path(path).name, int(updates)) for path, updates in found]


def refused(ended: Ended, sentence: str) -> None:
    assert ended.status == 2, ended.output
    assert re.match(f"fairseq-train: error: .*{sentence}", ended.last_line), ended.last_line


def test_what_a_run_leaves(five: Run) -> None:
    names = sorted(
        p.name
        for p in five.save_dir.iterdir()
        if p.suffix in (".pt", ".json", atomic.TEMPORARY_SUFFIX)
    )
    stems = ("checkpoint_1_2", "checkpoint_1_4", "checkpoint_last")
    assert names == [f"{stem}.{end}" for stem in stems for end in ("manifest.json", "pt")]
    layout = five.state()["layout"]
    assert layout["optimizer_params"] == list(five.state()["model"])
    assert layout["data_parallel_size"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("layout", [(1, 1), (1, 3), (2, 1), (2, 2)], ids=str)
def test_resumes_from_any_layout_exactly(
    five: Run, eight: Run, tmp_path: Path, layout: tuple[int, int]
) -> None:
    run = Run(five.data, tmp_path / "run")
    reshard(five.save_dir / "checkpoint_last.pt", run.save_dir, *layout)
    (name,) = {name for name, updates in loaded(run.train(8)) if updates == 5}
    assert name.startswith("checkpoint_last")
    assert_same_end(run, eight)
    # The set of one process takes the place of all files of the old one.
    assert [p.name for p in SetName(run.save_dir, "checkpoint_last").files()] == [
        "checkpoint_last.pt"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["--bf16", "--fp16"])
def test_another_precision_resumes_from_the_fp32_truth(
    five: Run, tmp_path: Path, precision: str
) -> None:
    """fp32 → 16 bits → fp32: weights and moments of the first arrive at the last unrounded."""
    run = five.copy(tmp_path / "run")
    before = run.state()
    options = ("--lr", 0.0, "--weight-decay", 0.0, "--fp16-no-flatten-grads")
    for updates, extra in ((6, (precision,)), (7, ())):
        ended = run.train(updates, *options, *extra)
        assert ended.status == 0, ended.output
        assert loaded(ended)[0][1] == updates - 1
    after = run.state()
    for name, tensor in before["model"].items():
        assert torch.equal(after["model"][name], tensor), name


def spoil_last(run: Run) -> None:
    path = run.save_dir / "checkpoint_last.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_set_is_named_and_skipped_only_if_asked(
    five: Run, eight: Run, tmp_path: Path
) -> None:
    run = five.copy(tmp_path / "run")
    spoil_last(run)
    refused(run.train(8), r"checkpoint_last\.pt must be the whole .* --skip-damaged-checkpoints")
    assert loaded(run.train(8, "--skip-damaged-checkpoints")) == [("checkpoint_1_4.pt", 4)]
    assert_same_end(run, eight)


@pytest.mark.slow
@pytest.mark.parametrize("option", [(), ("--skip-damaged-checkpoints",)])
def test_an_incomplete_set_and_no_other_is_no_fresh_start(
    five: Run, tmp_path: Path, option: tuple
) -> None:
    run = Run(five.data, tmp_path / "run")
    reshard(five.save_dir / "checkpoint_last.pt", run.save_dir, 1, 2)
    (run.save_dir / "checkpoint_last.manifest.json").unlink()
    refused(run.train(8, *option), "of its 2 files .* the manifest .* is missing")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["checkpoint_1_2.pt", "checkpoint_1_2.manifest.json", "checkpoint_1_2-shard1.pt"]
)
def test_any_path_of_a_set_restores_it(five: Run, tmp_path: Path, path: str) -> None:
    reshard(five.save_dir / "checkpoint_1_2.pt", tmp_path / "parts", 1, 2)
    run = Run(five.data, tmp_path / "run")
    ended = run.train(3, "--restore-file", tmp_path / "parts" / path)
    assert loaded(ended) == [("checkpoint_1_2-shard0.pt", 2)]


@pytest.mark.slow
def test_another_suffix_is_another_run(five: Run, tmp_path: Path) -> None:
    run = five.copy(tmp_path / "run")
    suffixed = ("--checkpoint-suffix=-b",)
    assert loaded(run.train(2, *suffixed)) == []
    assert loaded(run.train(3, *suffixed)) == [("checkpoint_last-b.pt", 2)]
    assert loaded(run.train(6)) == [("checkpoint_last.pt", 5)]


def test_asynchronous_writing_is_left_out_not_the_training(five: Run, tmp_path: Path) -> None:
    ended = Run(five.data, tmp_path).train(1, "--write-checkpoints-asynchronously")
    assert ended.status == 0, ended.output
    assert ended.output.count("--write-checkpoints-asynchronously has no effect") == 1
    assert (tmp_path / "checkpoint_last.pt").is_file()


@pytest.mark.slow
def test_a_requeued_job_goes_on_from_its_own_set(
    five: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(five.data, tmp_path / "run")
    options = ("--restore-file", five.save_dir / "checkpoint_1_2.pt", "--reset-optimizer",
               "--reset-dataloader", "--reset-meters", "--reset-lr-scheduler")  # fmt: skip
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    # Without a set of its own it does what it was asked to: the counter starts again.
    assert loaded(run.train(1, *options)) == [("checkpoint_1_2.pt", 0)]
    assert loaded(run.train(3, *options)) == [("checkpoint_last.pt", 1)]
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert loaded(run.train(4, *options)) == [("checkpoint_1_2.pt", 0)]


@pytest.mark.slow
def test_commands_take_a_set_in_parts(five: Run, tmp_path: Path) -> None:
    reshard(five.save_dir / "checkpoint_last.pt", tmp_path / "parts", 2, 2)
    path = tmp_path / "parts" / "checkpoint_last.pt"
    common = ("--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu", "--path")
    outputs = []
    for each in (path, five.save_dir / "checkpoint_last.pt"):
        valid = run_fairseq(
            "validate", five.data, *common, each, "--batch-size", 2, log_dir=tmp_path
        )
        told = run_fairseq(
            "interactive", five.data, *common, each, "--beam", 1, "--max-len-b", 9,
            log_dir=tmp_path, stdin="w1 w2 w3\n",
        )  # fmt: skip
        assert (valid.status, told.status) == (0, 0), valid.output + told.output
        losses = re.findall(r"\| loss ([0-9.]+)", valid.output)
        outputs.append((losses, re.findall(r"^H-0\t.*", told.output, re.MULTILINE)))
    assert outputs[0] == outputs[1]
    assert all(outputs[0])
    tuned = Run(five.data, tmp_path / "tuned").train(2, "--finetune-from-model", path)
    assert "loading pretrained model from" in tuned.output
    assert loaded(tuned) == [("checkpoint_last-model_part-0-shard0.pt", 0)]
    one, other = (
        OPT.from_pretrained(each).generate([[5, 6]], 5, seed=1)
        for each in (tmp_path / "parts", five.save_dir)
    )
    assert one == other


@pytest.mark.slow
def test_a_crash_of_one_process_is_kept(five: Run, tmp_path: Path) -> None:
    def fail() -> None:
        from metaseq_plugin.criterions.chunked_cross_entropy import ChunkedCrossEntropyCriterion

        def forward(*args: Any, **kwargs: Any) -> Any:
            raise ValueError("the loss is lost")

        criterion: Any = ChunkedCrossEntropyCriterion
        criterion.forward = forward

    run = Run(five.data, tmp_path / "run")
    assert run.train(2, prepare=fail).status == 1
    assert "model" in run.state("crash")


def test_no_crash_file_where_several_processes_train(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    owner: Any = SimpleNamespace(owns=lambda cfg: cfg.is_ours)
    monkeypatch.setattr(host, "registered", lambda: owner)
    save = checkpoint_sets.without_crash_file(lambda trainer, name, extra: saved.append(name))
    for world_size, ours in ((1, True), (2, True), (2, False)):
        cfg = SimpleNamespace(
            distributed_training=SimpleNamespace(distributed_world_size=world_size), is_ours=ours
        )
        trainer = SimpleNamespace(cfg=cfg)
        save(trainer, f"{world_size} {ours}", {})
        try:
            raise RuntimeError
        except RuntimeError:
            save(trainer, f"{world_size} {ours} crash", {})
    assert saved == ["1 True", "1 True crash", "2 True", "2 False", "2 False crash"]


@pytest.mark.parametrize(
    ("ended", "score", "best", "changed", "expected"),
    [
        (False, None, None, {}, ["checkpoint_2_30", "checkpoint_last"]),
        (False, 3.0, 3.0, {}, ["checkpoint_2_30", "checkpoint_best", "checkpoint_last"]),
        (False, 3.0, 2.0, {"save_interval_updates": 7}, ["checkpoint_last"]),
        (True, None, None, {}, ["checkpoint2", "checkpoint_last"]),
        (True, None, None, {"save_interval": 3}, ["checkpoint_last"]),
        (True, None, None, {"no_epoch_checkpoints": True, "no_last_checkpoints": True}, []),
    ],
)
def test_names_are_those_of_fairseq(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ended: bool,
    score: Optional[float],
    best: Optional[float],
    changed: dict[str, Any],
    expected: list[str],
) -> None:
    from metaseq_plugin.checkpoint import save as saving

    monkeypatch.setattr(saving, "best_score", lambda: best)
    trainer = SimpleNamespace(get_num_updates=lambda: 30, checkpoint_suffix="")
    end: Callable[[], bool] = lambda: ended  # noqa: E731
    itr = SimpleNamespace(epoch=2, end_of_epoch=end)
    assert stems_to_save(options(tmp_path, **changed), trainer, itr, score) == expected
