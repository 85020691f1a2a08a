"""Sweep files, YAML and Python, to the runs that they mean: values, names, resources, stages."""

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.events import record
from metaseq_plugin.launch.sweep.reading import read_sweep
from metaseq_plugin.launch.sweep.sweep import Sweep
from tests.launch.sweep.conftest import Write

BASELINE = """\
base: opt_125m
data: data
save_dir: runs/lr
options: {max-update: 2000}
grid:
  lr: [6e-4, 3.0E-4]
  seed: [1, 2]
resources: {nodes: 2, gpus_per_node: 8, time: 72:00:00, partition: gpu, slurm: {nice: 100}}
survival: {max_restarts: 3}
"""
TINY = """\
data: data
save_dir: runs
resources: {ranks_per_node: 2}
options: {criterion: chunked_cross_entropy, optimizer: adamw, tokens-per-sample: 32, lr: 0.1}
"""


def names(sweep: Sweep) -> list[str]:
    return [launch.spec.name for launch in sweep.launches()]


def test_a_grid_over_a_baseline(write: Write) -> None:
    sweep = read_sweep(write(BASELINE))
    assert names(sweep) == ["lr0.0006.s1", "lr0.0006.s2", "lr0.0003.s1", "lr0.0003.s2"]
    last = sweep.launches()[-1]
    assert last.spec.save_dir == Path("runs/lr/lr0.0003.s2")
    options = last.spec.options
    assert {name: options[name] for name in ("lr", "seed", "max-update", "arch", "task")} == {
        "lr": 0.0003, "seed": 2, "max-update": 2000, "arch": "opt_125m", "task": "opt_language_modeling",
    }  # fmt: skip
    # 0.5 M tokens = 8 x 4 x 8 data-parallel x 2,048; the end of the rate follows the rate
    assert (options["batch-size"], options["update-freq"]) == (8, 4)
    assert options["end-learning-rate"] == pytest.approx(3e-5)
    where = last.resources
    assert (where.nodes, where.ranks_per_node, where.uses_gpus, where.minutes) == (2, 8, True, 4320)
    assert where.slurm == {"partition": "gpu", "nice": "100"}
    assert last.survival.max_restarts == 3


def test_sizes_vary_with_what_they_need(write: Write) -> None:
    text = "data: data\nsave_dir: runs\nresources: {gpus_per_node: 8}\n"
    text += "zip: {base: [opt_125m, opt_1.3b], resources.nodes: [1, 4]}"
    small, large = read_sweep(write(text)).launches()
    assert small.spec.name == "opt_125m.nodes1"
    assert [launch.spec.options["arch"] for launch in (small, large)] == ["opt_125m", "opt_1.3b"]
    assert [launch.resources.num_ranks for launch in (small, large)] == [8, 32]
    for launch in (small, large):
        options, shards = launch.spec.options, launch.resources.num_ranks // 2
        sequences = int(str(options["batch-size"])) * int(str(options["update-freq"])) * shards
        assert sequences * 2048 == {"opt_125m": 1 << 19, "opt_1.3b": 1 << 20}[str(options["arch"])]


def test_without_a_baseline_the_data_says_the_task(write: Write) -> None:
    (launch,) = read_sweep(write(TINY + "grid: {arch: [opt_8m]}")).launches()
    assert launch.spec.options["task"] == "opt_language_modeling"
    assert launch.spec.options["cpu"] is True
    assert launch.resources.uses_gpus is False


def test_a_file_that_varies_nothing_is_one_run(write: Write) -> None:
    (launch,) = read_sweep(write(TINY + "base: opt_8m")).launches()
    assert launch.spec.save_dir == Path("runs/run")


def test_points_that_are_there_twice_run_once(write: Write) -> None:
    (stage,) = read_sweep(write(TINY + "list: [{seed: 1}, {seed: 2}, {seed: 1}]")).stages
    assert [run.name for run in stage.runs] == ["s1", "s2"]
    assert stage.repeated == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E4", 1e4), ("-.5", -0.5), ("3.", 3.0), ("10", 10), ("007", "007"), ("0x1f", "0x1f"),
        ("1_000", "1_000"), ("yes", "yes"), ("off", "off"), ("TRUE", True), ("null", None), ("~", None),
        ("2026-11-27", "2026-11-27"), ("1:30", "1:30"), ("'1'", "1"), ("1.5e", "1.5e"), ("+7", 7), (".inf", ".inf"),
    ],
)  # fmt: skip
def test_plain_text_is_read_by_the_rules_of_yaml_1_2(
    write: Write, text: str, value: object
) -> None:
    from metaseq_plugin.launch.sweep.read_yaml import read_yaml

    read = read_yaml(write(f"x: {text}")).fields()["x"].content
    assert (type(read), read) == (type(value), value)


def test_anchors_and_merges(write: Write) -> None:
    text = TINY.replace("options:", "options: &fixed") + textwrap.dedent("""\
        stages:
          a: {options: &more {<<: *fixed, lr: 0.2}, grid: {seed: &seeds [1, 2]}}
          b: {options: {<<: *more, clip-norm: 1}, grid: {seed: *seeds}}
        """)
    sweep = read_sweep(write(text))
    assert [launch.spec.options["lr"] for launch in sweep.launches()] == [0.2] * 4
    assert sweep.stages[1].runs[0].launch.spec.options["clip-norm"] == 1


def test_a_program_gives_the_same_runs(write: Write) -> None:
    program = textwrap.dedent("""\
        def sweep():
            return {
                "base": "opt_125m",
                "data": "data",
                "save_dir": "runs/lr",
                "options": {"max-update": 2000},
                "grid": {"lr": [2 * 3e-4, 3e-4], "seed": (1, 2)},
                "resources": {"nodes": 2, "gpus_per_node": 8, "time": "72:00:00", "partition": "gpu", "slurm": {"nice": 100}},
                "survival": {"max_restarts": 3},
            }
        """)
    made = read_sweep(write(program, "sweep.py")).launches()
    assert made == read_sweep(write(BASELINE)).launches()


def test_a_program_may_give_several_sweeps(write: Write) -> None:
    program = "def sweep():\n    one = dict(data='data', base='opt_8m', resources={'ranks_per_node': 2}, options={'batch-tokens': '128K'})\n    return [dict(one, save_dir=folder, grid={'seed': [1]}) for folder in ('a', 'b')]"
    sweep = read_sweep(write(program, "sweep.py"))
    assert [str(launch.spec.save_dir) for launch in sweep.launches()] == ["a/s1", "b/s1"]


STAGES = TINY + textwrap.dedent("""\
    stages:
      first:
        options: {arch: opt_8m, max-update: 4}
        grid: {seed: [1, 2], resources.ranks_per_node: [1, 2]}
      each:
        after: first
        start: each
        grid: {lr: [0.01]}
      best:
        after: first
        start: best
        checkpoint: checkpoint_best.pt
        grid: {lr: [0.01, 0.02]}
      then:
        after: best
        options: {arch: opt_8m}
    """)


def test_a_stage_may_start_from_each_run_of_another(write: Write) -> None:
    sweep = read_sweep(write(STAGES))
    first, each = sweep.stages[:2]
    assert len(first.runs) == len(each.runs) == 4
    for before, run in zip(first.runs, each.runs):
        assert run.name == f"{before.name}--lr0.01"
        assert run.save_dir == Path("runs/each") / run.name
        assert run.parents == [before.save_dir]
        options = run.launch.spec.options
        assert options["finetune-from-model"] == f"{before.save_dir}/checkpoint_last.pt"
        assert "arch" not in options  # which the checkpoint says
        assert "max-update" not in options  # the first stage's own
        assert run.launch.resources == before.launch.resources  # where they varied


def end(sweep: Sweep, *losses: object) -> None:
    """Let the runs of the first stage finish, with these losses in validation."""
    for run, loss in zip(sweep.stages[0].runs, losses):
        logs = run.save_dir / "launch" / "logs"
        logs.mkdir(parents=True)
        (logs / "rank-0.log").write_text(
            f'2026-11-27 | INFO | valid | {{"epoch": 1, "valid_loss": "{loss}", "valid_num_updates": "4"}}\n'
            '2026-11-27 | INFO | valid | {"epoch": 2, "valid_loss": "99.0", "valid_num_updates": "8"}\n'
        )
        record(run.save_dir, "finished")


def test_a_stage_may_start_from_the_best_run_of_another(write: Write) -> None:
    path = write(STAGES)
    sweep = read_sweep(path)
    assert sweep.stages[2].waits == "until first has ended, of which 4 of 4 runs have not"
    stand_in = sweep.stages[2].runs[0].launch.spec.options["finetune-from-model"]
    assert stand_in == "<best of first>/checkpoint_best.pt"
    names_before = names(sweep)

    end(sweep, 9.5, "nan", 7.25, 8)
    sweep = read_sweep(path)
    first, _, best, then = sweep.stages
    assert best.waits is None
    assert names(sweep) == names_before
    for run in best.runs:
        assert run.parents == [first.runs[2].save_dir]
        checkpoint = run.launch.spec.options["finetune-from-model"]
        assert checkpoint == f"{first.runs[2].save_dir}/checkpoint_best.pt"
    assert then.runs[0].parents == [run.save_dir for run in best.runs]


def test_a_stage_without_a_best_run_is_refused(write: Write) -> None:
    path = write(STAGES)
    end(read_sweep(path), *["nan"] * 4)
    for log in Path("runs/first").glob("*/launch/logs/rank-0.log"):
        log.write_text("no validation\n")
    with pytest.raises(UserError, match="Stage first must have a run that finished and was validated, but of 4 none"):  # fmt: skip
        read_sweep(path)


def test_what_a_command_line_changes_counts_before_the_recipe(write: Write) -> None:
    sweep = read_sweep(
        write(BASELINE),
        lambda launch: replace(launch, resources=replace(launch.resources, nodes=4)),
    )
    launch = sweep.launches()[0]
    assert launch.resources.num_ranks == 32
    assert launch.spec.options["update-freq"] == 2  # of the same batch
