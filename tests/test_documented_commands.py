"""Every command block of README, docs/ and benchmarks/README.md runs, on tiny data, and prints what the page shows.

    pytest -m slow tests/test_documented_commands.py        the runs, page by page
    pytest -m "not slow" tests/test_documented_commands.py  that every block is run or listed, and every flag known

A page is a story: its steps (``documented.py``) run in order in one folder (``documented_world.py``). What cannot
run, or is not comparable, stands in the tables below with the reason; they only shrink.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List, NamedTuple

import pytest

from tests.documented import PAGES, PROGRAM, ROOT, Step, missing_lines, read_page
from tests.documented_options import known_options, unknown_options
from tests.documented_world import GIVEN, MORE, WITH_QUICKSTART, enter, make_given, run
from tests.fairseq_runs import Ended

# The beginning of a command that does not run here -> why.
NOT_RUN = {
    "bash scripts/test.sh": "runs the tests, this one among them",
    "pip install": "takes network",
    "tensorboard --logdir": "serves until it is stopped",
    "metaseq eval --path runs/quickstart --data eval-data": "wants the evaluation sets; tests/evaluate",
    "metaseq eval calibrate": "wants the evaluation sets; tests/evaluate/toxicity/test_calibrate.py",
    "metaseq watch": "draws until it is stopped; tests/report/test_commands.py",
    "metaseq serve": "serves until it is stopped; tests/serve/test_command.py",
    "torchrun --nproc_per_node 2 $(which metaseq) eval": "two ranks; tests/evaluate/test_eval_runs.py",
    "python -m metaseq_plugin.evaluate.abilities.task_files": "wants the evaluation sets; tests/evaluate/test_abilities_against_lm_eval.py",
    "lm_eval --model metaseq_opt --model_args path=runs/quickstart --batch_size auto --include_path tasks --tasks metaseq_piqa": "of the files above",
    "lm_eval --model local-completions": "asks a server; tests/evaluate/test_against_hf.py",
    "PERSPECTIVE_KEY=": "asks a service; tests/evaluate/toxicity/test_perspective_example.py",
    "curl http://127.0.0.1:6010/": "asks a server; tests/serve/test_examples.py",
    "from openai import": "asks a server; tests/serve/test_examples.py",
    "python -m benchmarks.train_step": "times for minutes",
    "python -m benchmarks.gpu": "wants a GPU; tests/test_gpu_benchmark.py",
    "python -m benchmarks.decode": "times for minutes",
    "OMP_NUM_THREADS=2 python -m benchmarks.serve": "times for minutes",
    "python -m benchmarks.loss": "times for minutes",
    "python -m benchmarks.tokenizing": "times for minutes, and wants OPT's own tokenizer files",
    "OMP_NUM_THREADS=1 python -m benchmarks.parallel": "times for minutes",
    "python -m benchmarks.data": "times for minutes",
    "python -m benchmarks.launch": "times for minutes",
    "python -m benchmarks.start": "times for minutes",
    "OMP_NUM_THREADS=2 python -m benchmarks.ledger": "times for minutes",
    "OMP_NUM_THREADS=1 python -m benchmarks.evaluate": "times for minutes",
    "metaseq launch opt_125m --data data --save-dir runs/125m": "submits to a cluster; tests/slurm",
    "metaseq launch status runs/125m": "asks of the run above; tests/launch/folders",
    "apt-get install": "takes network",
    "python scripts/slurm_cluster.py": "wants root and SLURM's packages; tests/slurm/test_cluster.py",
    'eval "$(python scripts/slurm_cluster.py': "asks the cluster above",
    "srun -N 2": "asks the cluster above; tests/slurm/test_cluster.py",
}
# An option that asks for a package that the plugin does not depend on.
OPTIONAL = {
    "--tensorboard-logdir": "tensorboard",
    "--wandb-project": "wandb",
    "--aim-repo": "aim",
    "--mlflow-experiment": "mlflow",
}
# The beginning of a block that is shown and not printed by the commands above it -> why.
NOT_PRINTED = {
    "docs/abilities.md:task": "of sets that are not ours; tests/evaluate",
    "docs/architecture.md:1  2": "drawn and held by scripts/architecture.py",
    "docs/checkpoints.md:runs/a/": "what lies in a folder, with remarks",
    "docs/checkpoints.md:fairseq-train: error: runs/a": "a damaged file; tests/checkpoint/test_set.py",
    "docs/checkpoints.md:fairseq-train: SIGINT": "a run stopped by hand; tests/compat/test_stop_on_signal.py",
    "docs/data.md:corpus": "of a corpus with planted faults; tests/data/tools",
    "docs/energy.md:peak": "of one machine; tests/compat/test_log_lines.py",
    "docs/energy.md:tflops": "formulas; tests/ledger/test_throughput.py",
    "docs/fairseq.md:fairseq_cli.train.main": "a walk through files",
    "docs/harms.md:real-toxicity-prompts,": "of sets that are not part of this; tests/evaluate/toxicity",
    "docs/parallelism.md:model part 0": "a drawing",
    "docs/report.md:opt: finished": "of a run that was killed and stopped on its way; tests/report/test_screens.py",
    "docs/serve.md:loading runs/": "said by a server, which is not run here; tests/serve/test_command.py",
    'docs/surviving.md:{"time"': "of runs that fail; tests/launch/jobs/test_local_runs.py",
    "docs/streaming.md:DATA/train": "what lies in a folder",
    "docs/streaming.md:epoch 1 so far": "of a mixture of corpora with other names; tests/tasks",
    'docs/streaming.md:{"src"': "a line of PAIRS",
    "docs/watching.md:expected": "a formula; tests/ledger/test_spikes.py",
    "docs/watching.md:update 50": "said at a spike; tests/ledger/test_watched_runs.py",
    "docs/watching.md:The first output": "said at a NaN; tests/ledger/test_watched_runs.py",
}
# Lines of a comparable block that are the page's own.
OTHER_LINES = (
    "text               runs/quickstart/corpus.jsonl",
    # of docs/launched-runs.md: how long ago, how long still, and where a long sentence is cut
    *(
        "a           finished",
        "b           gave_up",
        "c           running",
        "1m failed",
        "1m gave_up",
    ),
    *("b: fairseq-train", "  train, valid.", "  (rank 0"),
)


class Quickstart(NamedTuple):
    """README's first command, run once for every page that speaks of what it makes."""

    step: Step
    ended: Ended
    folder: Path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_given(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def quickstart(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    step = read_page("README.md")[0]
    assert step.text.startswith("bash scripts/quickstart.sh")
    home = enter("README.md", given, tmp_path_factory.mktemp("quickstart") / "home")
    return Quickstart(step, run(step, home, updates=0), home / "runs/quickstart")


def why_not_run(step: Step) -> str:
    """Why a step is not run here, or nothing."""
    for beginning, reason in NOT_RUN.items():
        if step.kind in ("shell", "python") and step.text.startswith(beginning):
            return reason
    for option, package in OPTIONAL.items():
        if option in step.text and find_spec(package) is None:
            return f"{package} is not installed"
    return ""


def is_compared(step: Step) -> bool:
    return not any(f"{step.page}:{step.text}".startswith(beginning) for beginning in NOT_PRINTED)


def check_shown(step: Step, shown: List[str], printed: str) -> None:
    missing = [line for line in missing_lines(shown, printed) if not line.startswith(OTHER_LINES)]
    assert not missing, f"{step.place}\nshows, but nothing printed\n{missing}\nof\n{printed}"


def has_steps(page: str) -> bool:
    return any(step.kind != "shown" and not why_not_run(step) for step in read_page(page))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if has_steps(page)])
def test_the_page_runs(
    page: str, given: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    home = enter(page, given, tmp_path / "home")
    steps, updates, printed = read_page(page), 0, ""
    done: Dict[Step, Ended] = {}
    if page in WITH_QUICKSTART or page == "README.md":
        quickstart: Quickstart = request.getfixturevalue("quickstart")
        done[quickstart.step] = quickstart.ended
        (home / "runs").mkdir()
        (home / "runs/quickstart").symlink_to(quickstart.folder)
    for step in steps:
        if step.kind == "shown":
            if is_compared(step):
                check_shown(step, step.text.splitlines(), printed)
            continue
        if why_not_run(step):
            continue
        updates += 2  # so that each run that resumes has something to do
        ended = done[step] if step in done else run(step, home, updates)
        assert ended.status == (2 if step.is_mistake else 0), f"{step.place}\n{ended.output}"
        check_shown(step, list(step.prints), ended.output)
        printed += ended.output


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_listed(page: str) -> None:
    runs = False
    for step in read_page(page):
        runs = runs or step.kind != "shown"
        if step.kind == "shown":
            hidden = [line for line in step.text.splitlines() if PROGRAM.match(line)]
            assert not hidden, f"{step.place}: {hidden} are commands in a block that is not one"
            assert runs or not is_compared(step), f"{step.place}: nothing above prints it"
        assert "…" not in step.text or step.kind == "shown", f"{step.place}: is not whole"


def test_the_tables_list_nothing_that_is_gone() -> None:
    steps = [step for page in PAGES for step in read_page(page)]
    for beginning in NOT_RUN:
        assert any(step.text.startswith(beginning) for step in steps), beginning
    for beginning in NOT_PRINTED:
        assert any(f"{step.page}:{step.text}".startswith(beginning) for step in steps), beginning
    for program in MORE:
        assert any(re.search(rf"(^|\| ){program} ", step.text, re.MULTILINE) for step in steps), (
            program
        )
    assert set(GIVEN) <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_options_of_every_command_are_known(page: str) -> None:
    for step in read_page(page):
        if step.kind == "shell":
            assert not unknown_options(step.text), step.place


@pytest.mark.parametrize("page", PAGES)
def test_the_options_that_a_page_names_are_known(page: str) -> None:
    text = re.sub(
        r"^ *(#SBATCH|srun) .*$", "", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE
    )
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*\w(?![\w-])", text))
    assert sorted(named - known_options()) == []


def test_an_option_that_nothing_knows_is_found() -> None:
    command = "fairseq-train data --user-dir metaseq_plugin --task opt_language_modeling --arch opt"
    assert unknown_options(f"{command} --bathc-size 3 --tokens-per-sample 8") == ["--bathc-size"]
    assert unknown_options(
        "torchrun --nproc_per_node 3 $(which fairseq-train) --task opt_dummy_lm --size 1"
    ) == ["--size"]
    assert unknown_options("metaseq convert a b --to hf --form x") == ["--form"]
    assert unknown_options("printf 'a' | fairseq-interactive d --no") == ["--no"]
    assert not unknown_options(f"{command} --bf16 --lr 1e-3")


def test_what_is_missing_of_a_block_is_found() -> None:
    assert not missing_lines(["read  a: 1,234 bytes", "… done"], "x\nread a: 5 bytes\n12:01 done")
    assert missing_lines(["read  b: 1 bytes"], "read a: 1 bytes") == ["read  b: 1 bytes"]
