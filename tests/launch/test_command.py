"""``metaseq launch`` from its words to what is submitted, and what it refuses."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from metaseq_plugin import cli
from metaseq_plugin.launch import command
from metaseq_plugin.launch.jobs.submit import submit
from metaseq_plugin.launch.recipe import folded
from metaseq_plugin.launch.resource_options import read_minutes
from metaseq_plugin.launch.spec import Launch
from metaseq_plugin.launch.sweep import launching
from tests.fairseq_runs import write_data


class World(NamedTuple):
    """A folder with data, and what was submitted."""

    folder: Path
    submitted: list[Launch]
    states: dict[Path, str]  # of run folders, where not new

    def launch(self, *words: Any) -> int:
        return cli.main(["launch", *map(str, words)])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    write_data(tmp_path / "data")
    submitted: list[Launch] = []
    states: dict[Path, str] = {}
    monkeypatch.chdir(tmp_path)

    def submit_nothing(launches: list[Launch]) -> list[str]:
        submitted.extend(launches)
        return ["17"]

    monkeypatch.setattr(command, "submit", submit_nothing)
    monkeypatch.setattr(command, "state_of", lambda save_dir: states.get(save_dir, "new"))
    return World(tmp_path, submitted, states)


ONE = ("opt_125m", "--data", "data", "--save-dir", "runs/a")
CPU = (*ONE, "--cpu", "--ranks-per-node", "2", "--executor", "local")
GPUS = (*ONE, "--nodes", "2", "--gpus-per-node", "8", "--executor", "slurm")


def test_a_recipe_is_submitted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.launch(*CPU, "--time", "1:30:00", "--max-restarts", 3, "--lr", "1e-4") == 0
    (launch,) = world.submitted
    assert launch.spec.name == "opt_125m"
    assert (launch.spec.data, launch.spec.save_dir) == ("data", Path("runs/a"))
    assert launch.spec.options["lr"] == "1e-4"
    assert launch.spec.options["end-learning-rate"] == 1e-5
    assert launch.spec.options["cpu"] is True
    assert launch.spec.options["distributed-backend"] == "gloo"
    assert "fp16" not in launch.spec.options
    assert (launch.resources.executor, launch.resources.num_ranks) == ("local", 2)
    assert (launch.resources.minutes, launch.survival.max_restarts) == (90, 3)
    printed = capsys.readouterr().out
    assert (
        "opt_125m: 2 ranks on 1 node, 524,288 tokens an update = --batch-size 8 x --update-freq 32"
        in printed
    )
    assert "job 17: runs/a\n    metaseq launch status runs/a\n" in printed
    content = json.loads((world.folder / "runs/a/launch/run.json").read_text())
    assert Launch.from_json({name: content[name] for name in launch.as_json()}) == launch


@pytest.mark.parametrize("words", [("--lr", "1e-4", "--bf16"), ("--", "--lr", "1e-4", "--bf16")])
def test_options_of_fairseq_train_stand_anywhere_behind_the_name(world: World, words: Any) -> None:
    if words[0] != "--":
        assert world.launch(CPU[0], *words, *CPU[1:]) == 0
    assert world.launch(*CPU, *words) == 0
    for launch in world.submitted:
        assert (launch.spec.options["lr"], launch.spec.options["bf16"]) == ("1e-4", True)


def test_options_can_be_left_out(world: World) -> None:
    assert world.launch(*CPU, "--without", "checkpoint-activations, --log-format") == 0
    assert not {"checkpoint-activations", "log-format"} & world.submitted[0].spec.options.keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--without", "max-update"), "2,048 tokens; any number of updates"),
        (("--max-update", "0"), "2,048 tokens; any number of updates"),  # as fairseq reads it
        (("--update-freq", "[2]"), "--update-freq 2 x"),  # as fairseq writes it
    ],
)
def test_the_summary_says_what_will_be_trained(
    world: World, words: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.launch(*CPU, *words) == 0
    assert said in capsys.readouterr().out


def test_a_batch_is_given_in_tokens(world: World) -> None:
    assert world.launch(*CPU, "--batch-tokens", "1M") == 0
    assert world.submitted[0].spec.options["max-update"] == 286_102


def test_a_dry_run_prints_the_command_and_writes_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(world.folder.rglob("*"))
    assert world.launch(*CPU, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert sorted(world.folder.rglob("*")) == before
    assert not world.submitted
    assert world.launch(*CPU) == 0
    lines = printed.split("\n\n")[0].splitlines()[1:]
    assert shlex.split(" ".join(line.removesuffix("\\") for line in lines)) == [
        "fairseq-train",
        *world.submitted[0].spec.words(),
    ]


def test_a_dry_run_prints_the_script_for_slurm(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--partition", "gpu", "--account", "opt", "--time", "3-00:00:00", "--exclude", "n[1-3]")
    assert world.launch(*GPUS, *more, "--dry-run") == 0
    script = capsys.readouterr().out.partition("\n#!")[2]
    for line in (
        "partition=gpu",
        "account=opt",
        "time=4320",
        "exclude='n[1-3]'",
        "nodes=2",
        "gpus-per-node=8",
    ):
        assert f"#SBATCH --{line}" in script, script
    assert not (world.folder / "runs").exists()


def test_a_streamed_folder_is_streamed(world: World) -> None:
    for name in ("train/00", "valid/wiki/00", "valid/books/00"):
        (world.folder / "DATA" / name).mkdir(parents=True)
    assert world.launch(*CPU[:2], "DATA", *CPU[3:]) == 0
    options = world.submitted[0].spec.options
    assert options["task"] == "opt_streaming_language_modeling"
    assert options["valid-subset"] == "valid/books,valid/wiki"


def test_data_without_validation_is_not_validated(world: World) -> None:
    (world.folder / "data/valid.idx").unlink()
    assert world.launch(*CPU) == 0
    options = world.submitted[0].spec.options
    assert options["disable-validation"] is True
    assert "valid-subset" not in options


def test_a_command_is_folded_between_options() -> None:
    words = [
        "fairseq-train",
        "data",
        "--bf16",
        "--lr",
        "1e-4",
        "--adam-betas",
        "'(0.9, 0.95)'",
        "--cpu",
    ]
    assert folded(words, 30) == (
        "fairseq-train data --bf16 \\\n    --lr 1e-4 \\\n    --adam-betas '(0.9, 0.95)' \\\n    --cpu"
    )


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_run_under_way_is_not_launched_again(
    world: World, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.launch(*CPU) == 0
    world.states[Path("runs/a")] = state
    assert world.launch(*CPU) == 2
    assert capsys.readouterr().err == (
        f"metaseq launch: error: `--save-dir` must be of no run that is under way, but runs/a is {state}. "
        "Wait for it, end it with `metaseq launch stop runs/a`, or set another.\n"
    )
    assert len(world.submitted) == 1


@pytest.mark.parametrize("state", ["failed", "stopped", "gave_up"])
def test_a_run_that_has_ended_goes_on(
    world: World, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.launch(*CPU) == 0
    world.states[Path("runs/a")] = state
    assert world.launch(*CPU) == 0
    assert f"runs/a: {state}; goes on from its newest checkpoint\n" in capsys.readouterr().out
    assert len(world.submitted) == 2


def test_a_finished_run_goes_on_only_for_more_updates(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.launch(*CPU, "--max-update", 10) == 0
    world.states[Path("runs/a")] = "finished"
    assert world.launch(*CPU, "--max-update", 10) == 0
    assert "runs/a: has finished its 10 updates; nothing to do. A larger --max-update goes on." in (
        capsys.readouterr().out
    )
    assert len(world.submitted) == 1
    assert world.launch(*CPU, "--max-update", 12) == 0
    assert len(world.submitted) == 2


def test_waiting_ends_with_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = iter(["queued", "running", "finished", "queued", "failed"])
    monkeypatch.setattr(launching, "states_of", lambda folders: {folders[0]: next(seen)})
    monkeypatch.setattr(launching, "SECONDS_BETWEEN_LOOKS", 0.0)
    assert world.launch(*CPU, "--wait") == 0
    assert capsys.readouterr().out.endswith("runs/a: finished\n")
    assert world.launch(*CPU, "--wait") == 2
    assert "Every run must finish, but 1 of 1 did not (runs/a: failed)." in capsys.readouterr().err


# fmt: off
# name -> (words, what is said)
REFUSED: dict[str, tuple[Callable[[Path], tuple[Any, ...]], str]] = {
    "no such baseline": (lambda p: ("opt_126m", *CPU[1:]), "A baseline must be one of .* but is opt_126m. Did you mean opt_125m?"),
    "an option for a name": (lambda p: ("1e-4", *CPU[1:]), "A baseline must be one of .* but is 1e-4. "),
    "no data": (lambda p: (ONE[0], *CPU[3:]), "`--data` must name a folder, but is missing. Set it."),
    "no save-dir": (lambda p: (*CPU[:3], *CPU[5:]), "`--save-dir` must name a folder, but is missing. Set it."),
    "data is not there": (lambda p: (*CPU, "--data", "nowhere"), "`--data` must be a folder, but nowhere is not. Make it with `metaseq prepare`."),
    "data of nothing": (lambda p: (*CPU, "--data", "."), "`--data` must hold train.bin and train.idx, or text in train/00, but . does not."),
    "data is empty": (lambda p: (*CPU, "--data", ""), "`--data` must be a folder"),
    "save-dir under a file": (lambda p: (*CPU, "--save-dir", "data/dict.txt/run"), "`--save-dir` must be a folder that can be written, but .*dict.txt is not a folder. Set another."),
    "save-dir is a file": (lambda p: (*CPU, "--save-dir", "data/dict.txt"), "`--save-dir` must be a folder that can be written, but data/dict.txt is not a folder."),
    "neither GPUs nor CPUs": (lambda p: ONE, "`--gpus-per-node` or `--cpu` must be given, but neither is. Set one of them."),
    "GPUs and CPUs": (lambda p: (*CPU, "--gpus-per-node", 8), "`--gpus-per-node` must be left out with --cpu, but is 8."),
    "ranks of GPUs": (lambda p: (*ONE, "--ranks-per-node", 8, "--gpus-per-node", 8), "`--gpus-per-node` must be left out with --ranks-per-node, but is 8."),
    "ranks of nothing": (lambda p: (*ONE, "--ranks-per-node", 8), "`--ranks-per-node` must come with --cpu, but is 8 without. Set --gpus-per-node instead."),
    "no nodes": (lambda p: (*CPU, "--nodes", 0), "`--nodes` must be at least 1, but is 0. Set more."),
    "no GPUs": (lambda p: (*ONE, "--gpus-per-node", 0), "`--gpus-per-node` must be at least 1, but is 0."),
    "no ranks": (lambda p: (*CPU, "--ranks-per-node", -1), "`--ranks-per-node` must be at least 1, but is -1."),
    "no CPUs": (lambda p: (*CPU, "--cpus-per-rank", 0), "`--cpus-per-rank` must be at least 1, but is 0."),
    "two nodes here": (lambda p: (*CPU, "--nodes", 2), "`--nodes` must be 1 with --executor local, but is 2. Set 1, or --executor slurm."),
    "time of words": (lambda p: (*CPU, "--time", "long"), "`--time` must be hours:minutes:seconds, days-hours or minutes, but is long. Set for example 72:00:00."),
    "time of nothing": (lambda p: (*CPU, "--time", "0"), "`--time` must be .* but is 0."),
    "time of text": (lambda p: (*CPU, "--time", ""), "`--time` must be"),
    "restarts": (lambda p: (*CPU, "--max-restarts", -1), "`--max-restarts` must be at least 0, but is -1."),
    "backoff": (lambda p: (*CPU, "--backoff", "nan"), "`--backoff` must be at least 0, but is nan."),
    "endless backoff": (lambda p: (*CPU, "--backoff", "inf"), "`--backoff` must be finite, but is inf. Set less."),
    "a long save-dir": (lambda p: (*CPU, "--save-dir", "a" * 300), r"`--save-dir` must be a folder that can be written, but a+ is not \(File name too long\). Set another."),
    "hang factor": (lambda p: (*CPU, "--hang-factor", "0.5"), "`--hang-factor` must be above 1, or 0, but is 0.5. Set for example 20."),
    "hang seconds": (lambda p: (*CPU, "--hang-seconds", -3), "`--hang-seconds` must be at least 0, but is -3.0."),
    "signal": (lambda p: (*CPU, "--signal-seconds", 0), "`--signal-seconds` must be at least 1, but is 0."),
    "signal after the limit": (lambda p: (*CPU, "--time", "2", "--signal-seconds", 180), r"`--signal-seconds` must be less than --time \(120 seconds\), but is 180."),
    "restore file": (lambda p: (*CPU, "--restore-file", "none.pt"), "`--restore-file` must name a checkpoint, but none.pt does not exist."),
    "two lines of a partition": (lambda p: (*CPU, "--partition", "a\nb"), "`--partition` must be text on one line, but is 'a.*nb'."),
    "an empty account": (lambda p: (*CPU, "--account", " "), "`--account` must be text on one line, but is ' '."),
    "misspelt": (lambda p: (*CPU, "--bathc-size", 8), "`--bathc-size` must be an option of fairseq-train with --task opt_language_modeling, --arch opt_125m, but is unknown. Did you mean --batch-size?"),
    "misspelt option of ours": (lambda p: (*CPU, "--max-restart", 3), "`--max-restart` must be an option of fairseq-train .* but is unknown."),
    "of another kind": (lambda p: (*CPU, "--max-update", "ten"), "`--max-update` must be a whole number, but is ten."),
    "a word too many": (lambda p: (*CPU, "extra"), "What follows must be options of fairseq-train, by their long names, but extra is none."),
    "value missing": (lambda p: (*CPU, "--lr"), "`--lr` must have a value, but has none."),
    "layout left out": (lambda p: (*CPU, "--without", "model-parallel-size"), "`--model-parallel-size` must have a value in a recipe, but is left out."),
    "unknown left out": (lambda p: (*CPU, "--without", "wind"), "`--wind` must be an option of fairseq-train"),
    "another folder": (lambda p: (*CPU, "--user-dir", "x"), "`--user-dir` must be left out here, but is set."),
    "parts of ranks": (lambda p: (*CPU, "--ranks-per-node", 3), r"`--model-parallel-size` must divide the number of ranks \(3\), but is 2. Set one of 1, 3."),
    "parts of heads": (lambda p: (*CPU, "--ranks-per-node", 8, "--model-parallel-size", 8), r"`--model-parallel-size` must divide the attention heads \(12\), but is 8."),
    "batch": (lambda p: (*CPU, "--ranks-per-node", 6), "`--batch-tokens` must be a multiple of 6,144 .* but is 524,288. Set --batch-tokens 522240 or 528384, or 4 or 8 ranks."),
    "batch of words": (lambda p: (*CPU, "--batch-tokens", "many"), "`--batch-tokens` must be a number of tokens, but is many."),
    "for a sweep": (lambda p: (*CPU, "--max-jobs", 3), "`--max-jobs` must come with a sweep file, but WHAT is opt_125m. Leave it out."),
    "for a sweep too": (lambda p: (*CPU, "--only", "failed"), "`--only` must come with a sweep file"),
    "rate of words": (lambda p: (*CPU, "--lr", "fast"), "`--lr` must be a number, but is fast."),
}
# fmt: on


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence(
    world: World, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, sentence = REFUSED[name]
    assert world.launch(*words(world.folder)) == 2
    printed = capsys.readouterr()
    assert re.match(f"metaseq launch: error: {sentence}", printed.err), printed.err
    assert printed.out == ""
    assert not world.submitted
    assert not (world.folder / "runs").exists()


@pytest.mark.parametrize(
    "words", [("--nodes", "two"), ("--executor", "cloud"), ("--launcher", "mpi")]
)
def test_argparse_refuses_what_is_of_another_kind(
    world: World, words: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        world.launch(*CPU, *words)
    assert end.value.code == 2
    assert f"metaseq launch: error: argument {words[0]}: invalid" in capsys.readouterr().err


def test_slurm_must_be_there(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(world.folder))
    assert world.launch(*GPUS) == 2
    assert "`--executor` must be one that is there, but is slurm, and srun is not found." in (
        capsys.readouterr().err
    )
    assert world.launch(*GPUS, "--dry-run") == 0  # needs none
    assert not (world.folder / "runs").exists()


def test_what_sbatch_says_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "submit", submit)
    monkeypatch.setenv("PATH", f"{world.folder}:/usr/bin:/bin")
    for name in ("sbatch", "srun"):
        program = world.folder / name
        program.write_text(
            "#!/bin/sh\necho 'error: invalid partition specified: gqu' >&2\nexit 1\n"
        )
        program.chmod(0o755)
    assert world.launch(*GPUS, "--partition", "gqu") == 2
    error = capsys.readouterr().err
    assert error.endswith(
        "metaseq launch: error: SLURM must take what is asked of it, but sbatch says: error: invalid partition "
        "specified: gqu. Set other options of sbatch.\n"
    )


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90), ("90:01", 91), ("72:00:00", 4320), ("0:00:01", 1), ("3-00", 4320), ("1-12", 2160),
        ("1-12:30", 2190), ("1-12:30:30", 2191),
    ],
)  # fmt: skip
def test_times_are_sbatchs(text: str, minutes: int) -> None:
    assert read_minutes(text) == minutes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "--help"), "usage: metaseq launch status "),
        (("stop", "--help"), "usage: metaseq launch stop "),
        (("logs", "--help"), "usage: metaseq launch logs "),
        (("--help",), "usage: metaseq launch WHAT [options] [options of fairseq-train]"),
    ],
)
def test_what_is_launched_is_looked_after(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["launch", *words])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(said)
