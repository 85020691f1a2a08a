"""``metaseq eval`` as a user types it, with a model that needs no weights: what is printed, written and refused."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from metaseq_plugin import cli
from metaseq_plugin.evaluate import command
from metaseq_plugin.evaluate.figures import measured
from metaseq_plugin.evaluate.published import Published
from metaseq_plugin.evaluate.rank_files import own_device
from metaseq_plugin.evaluate.results import items_of, read_results
from tests.evaluate.lookalike import PAIRS, ROWS, FakeModel, Vowels, register, write_data

Eval = Callable[..., int]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with sets in ``sets`` and a model's folder ``model-hf``."""
    register(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "open_model", lambda args: FakeModel())
    monkeypatch.setattr(command, "read_scorer", lambda text: None if text is None else Vowels())
    write_data(tmp_path / "sets")
    (tmp_path / "model-hf").mkdir()
    (tmp_path / "model-hf/config.json").write_text("{}")
    return tmp_path


def metaseq(*words: str) -> int:
    return cli.main(["eval", *words])


def test_a_table_and_a_file_of_results(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert metaseq("tiny-pairs", "--path", "model-hf", "--data", "sets") == 0
    printed, said = capsys.readouterr()
    output = Path("eval-model-hf-tiny-pairs.json")
    (task,) = read_results(output).tasks.values()
    value = measured(task.measures[0])
    lines = printed.splitlines()
    assert lines[0].split() == ["task", "measure", "group", "value", "±", "s.e.", "n", "published"]
    assert re.fullmatch(rf"tiny-pairs  win_share  overall +{re.escape(value)} +40", lines[1])
    assert lines[2].split()[0] == "even"
    assert f"tiny-pairs: of {task.ncut} requests the beginning was not read" in printed
    assert "in 10 requests one token lies on both sides of context and continuation" in printed
    assert "tiny-pairs, win_share: in percent" in printed
    assert "pairs/pairs.jsonl: as expected" in said
    assert f"results  {output}" in said
    first = output.read_bytes(), items_of(output).read_bytes()
    assert metaseq("tiny-pairs", "--path", "model-hf", "--data", "sets", "--fresh", "--json") == 0
    assert (output.read_bytes(), items_of(output).read_bytes()) == first
    assert json.loads(capsys.readouterr().out) == json.loads(output.read_bytes())


def test_the_published_number_stands_beside_with_its_source(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearest(task: str, measure: str, group: str, size: Any) -> Published | None:
        assert (task, measure, size) == ("tiny-pairs", "win_share", 125_000_000)
        if group == "odd":
            return None
        return Published(task, measure, group, "OPT-125M", 125_000_000, "61.5", "percent", "Nobody 2026", "Table 3")  # fmt: skip

    monkeypatch.setattr("metaseq_plugin.evaluate.table.nearest", nearest)
    assert metaseq("tiny-pairs", "--path", "model-hf", "--data", "sets") == 0
    printed = capsys.readouterr().out
    assert printed.count("61.50 OPT-125M [1]") == 2
    assert printed.count("[1] Nobody 2026, Table 3") == 1


def test_a_group_leaves_out_what_cannot_run_and_says_so(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("tiny-harms", "--path", "model-hf", "--data", "sets", "--output", "out.json")
    assert metaseq(*words) == 0
    printed, said = capsys.readouterr()
    results = read_results(Path("out.json"))
    assert list(results.tasks) == ["tiny-pairs"]
    assert (
        "`--scorer` must say who judges the texts of tiny-texts" in results.left_out["tiny-texts"]
    )
    assert "Get it from example.org/talks (licence: CC BY-NC 4.0)" in results.left_out["tiny-talks"]
    for sentence in results.left_out.values():
        assert sentence in printed
        assert sentence in said


def test_options_reach_tasks_and_results(home: Path) -> None:
    words = ("tiny-texts", "--limit", "3", "--shots", "2", "--seed", "7", "--scorer", "x")
    assert metaseq(*words, "--path", "model-hf", "--data", "sets", "--output", "out.json") == 0
    results = read_results(Path("out.json"))
    expected = {"limit": 3, "shots": 2, "seed": 7, "scorer": {"name": "vowels", "version": 1}}
    assert results.options == expected
    assert results.tasks["tiny-texts"].n == 3
    assert results.tasks["tiny-texts"].protocol["shots"] == 2


GOOD = ("tiny-pairs", "--path", "model-hf", "--data", "sets")
BAD: list[tuple[tuple[str, ...], str]] = [
    (("--path", "model-hf"), "`TASK` must be given, but is not."),
    (("tiny-pairs",), "`--path` must name a model, but is not set."),
    (("no-such", "--path", "model-hf"), "`TASK` must be one of"),
    ((*GOOD, "--limit", "0"), "`--limit` must be at least 1, but is 0."),
    ((*GOOD, "--shots", "-1"), "`--shots` must be at least 0, but is -1."),
    ((*GOOD, "--batch-tokens", "0"), "`--batch-tokens` must be at least 1, but is 0."),
    ((*GOOD, "--shots", "3"), "`--shots` must go with a task that takes examples, but tiny-pairs"),
    ((*GOOD, "--output", "no/out.json"), "`--output` must be in a folder that is there, but no is none."),
    ((*GOOD, "--output", "sets"), "`--output` must be a file, but sets is a folder."),
    (("tiny-pairs", "--path", "model-hf"), "`--data` must name the folder of evaluation sets"),
    (("tiny-talks", "--path", "model-hf", "--data", "sets"), "`--data` must hold talks/talks.jsonl, but"),
    (("tiny-texts", "--path", "model-hf", "--data", "sets"), "`--scorer` must say who judges"),
    (("tiny-pairs", "--path", "nowhere", "--data", "sets"), "The model must exist, but nowhere does not."),
    (("--compare", "a.json"), "a.json must be results of `metaseq eval --output`, but cannot be read"),
    (("--compare", "a.json", "--path", "model-hf"), "`--compare` must come without tasks and options of measuring, but comes with --path."),
    (("--compare", "a.json", "--output", "b.json", "--fresh"), "`--compare` must come without tasks and options of measuring, but comes with --output, --fresh."),
    ((*GOOD, "--output", "model-hf/config.json"), "`--output` must be new or hold results that this version knows, but model-hf/config.json does not."),
    ((*GOOD, "--page", "sets"), "`--page` must be a file, but sets is a folder."),
    ((*GOOD, "--plot", "sizes.pdf"), "`--plot` must end in .svg or .png, but is sizes.pdf."),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), BAD, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_is_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    before = sorted(home.iterdir())
    assert metaseq(*words) == 2
    printed, error = capsys.readouterr()
    last = error.splitlines()[-1]
    assert last.startswith(f"metaseq eval: error: {said}")
    assert not printed
    assert sorted(home.iterdir()) == before


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (ROWS[1:], (), "pairs.jsonl must have the SHA-256"),
        ([{"id": "a", "more": "b"}], ("--any-data",), "must have id, more and less, but line 1 has not"),
        ([], ("--any-data",), "pairs.jsonl must not be empty, but has 0 bytes."),
    ],
)  # fmt: skip
def test_a_bad_file_is_told_before_the_model_is_opened(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rows: list[Any],
    options: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.delattr(command, "open_model")
    content = "".join(json.dumps(row) + "\n" for row in rows)
    (home / "sets" / PAIRS.path).write_text(content)
    assert metaseq(*GOOD, *options) == 2
    assert said in capsys.readouterr().err


def test_a_scorer_that_fails_is_told_and_what_is_done_stays(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from metaseq_plugin.compat.errors import UserError

    class Failing(Vowels):
        def score(self, texts: Any) -> list[float]:
            raise UserError("`--scorer` must give a number from 0 to 1, but is nan. Mend it.")

    monkeypatch.setattr(command, "read_scorer", lambda text: Failing())
    words = ("tiny-pairs", "tiny-texts", "--scorer", "x", "--path", "model-hf", "--data", "sets")
    assert metaseq(*words, "--output", "out.json") == 2
    assert "`--scorer` must give a number" in capsys.readouterr().err
    assert not Path("out.json").exists()
    assert len(items_of(Path("out.json")).read_text().splitlines()) == 1 + len(ROWS)


def test_ctrl_c_says_where_to_go_on(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "open_model", lambda args: FakeModel(stop_after=1))
    words = (*GOOD, "--batch-tokens", "100", "--output", "out.json")
    assert metaseq(*words) == 130
    assert "what is done is in out.items.jsonl; the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(command, "open_model", lambda args: FakeModel())
    assert metaseq(*words) == 0


def test_two_at_once_on_one_output_are_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import fcntl, sys, time\nstream = open('out.items.jsonl', 'a+b')\n"
        "fcntl.lockf(stream, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert metaseq(*GOOD, "--output", "out.json", "--fresh") == 2
        other.kill()
    assert (
        "must be written by one process, but another writes out.items.jsonl"
        in capsys.readouterr().err
    )


def test_compare_shows_side_by_side_what_was_measured_in_the_same_way(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def model(name: str) -> FakeModel:
        made = FakeModel()
        made.about = {**made.about, "path": f"models/{name}"}
        return made

    both = ("tiny-pairs", "tiny-texts", "--scorer", "x", "--path", "model-hf", "--data", "sets")
    for name, seed in (("small", "1"), ("large", "1"), ("other", "2")):
        monkeypatch.setattr(command, "open_model", lambda args, name=name: model(name))
        assert metaseq(*both, "--seed", seed, "--output", f"{name}.json") == 0
    capsys.readouterr()
    assert metaseq("--compare", "small.json", "large.json") == 0
    printed, said = capsys.readouterr()
    assert printed.splitlines()[0].split() == ["task", "measure", "group", "small", "large"]
    assert printed.count(" ± ") == 8
    assert not said
    assert metaseq("--compare", "small.json", "other.json") == 0
    printed, said = capsys.readouterr()
    assert printed.count(" ± ") == 6
    assert "tiny-texts was not compared: small and other differ in protocol seed (1 and 2)." in said
    assert metaseq(*GOOD, "--limit", "5", "--output", "few.json") == 0
    capsys.readouterr()
    assert metaseq("--compare", "few.json", "small.json") == 2
    assert "other and small have other items (5 and 40)" in (error := capsys.readouterr().err)
    assert "no two are. Run `metaseq eval` with the same options" in error


def test_a_file_that_is_none_of_results(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("", "[]", "{}", '{"format": 2}', '{"format": 1, "order": ["a"], "tasks": {}}'):
        Path("bad.json").write_text(content)
        assert metaseq("--compare", "bad.json", "bad.json") == 2
        assert "bad.json must be results of `metaseq eval --output`, but" in capsys.readouterr().err


# part of a file of results -> what somebody made of it
OF_TASK: dict[str, Any] = {
    **{"title": None, "source": ["x"], "protocol": ["x"], "data": None},
    **{"items": 1, "n": "40", "ncut": "x", "measures": {}},
}
OF_MEASURE: dict[str, Any] = {
    **{"name": 3, "group": None, "note": 5},
    **{"n": "40", "value": "high", "interval": [1]},
}
EDITED: dict[tuple[Any, ...], Any] = {
    ("order",): "tiny-pairs",
    ("versions",): [["torch", "2"]],
    ("left_out",): {"ethos": 3},
    ("model", "num_parameters"): 0,
    ("options", "limit"): "few",
    ("options", "scorer"): "lexicon",
    **{("tasks", "tiny-pairs", part): value for part, value in OF_TASK.items()},
    **{("tasks", "tiny-pairs", "measures", 0, part): value for part, value in OF_MEASURE.items()},
}


@pytest.mark.parametrize("place", EDITED, ids=lambda place: " ".join(map(str, place)))
def test_results_that_somebody_edited_are_told_and_not_shown(
    home: Path, capsys: pytest.CaptureFixture[str], place: tuple[Any, ...]
) -> None:
    assert metaseq(*GOOD, "--output", "good.json") == 0
    capsys.readouterr()
    content = json.loads(Path("good.json").read_bytes())
    part = content
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = EDITED[place]
    Path("bad.json").write_text(json.dumps(content))
    assert metaseq("--compare", "good.json", "bad.json", "--page", "page.html") == 2
    printed, error = capsys.readouterr()
    assert error.startswith(
        "metaseq eval: error: bad.json must be results of `metaseq eval --output`, but is not ("
    )
    assert not printed


def test_a_plot_of_a_model_of_unknown_size_is_refused_before_it_is_asked(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeModel()
    model.about = {**model.about, "num_parameters": None}
    monkeypatch.setattr(command, "open_model", lambda args: model)
    assert metaseq(*GOOD, "--plot", "sizes.svg", "--output", "out.json") == 2
    assert "`--plot` must have results of models whose size is known" in capsys.readouterr().err
    assert not model.asked


def test_the_list_names_files_and_where_to_get_them(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metaseq("--list") == 0
    printed = capsys.readouterr().out
    assert "tiny-harms: tiny-pairs tiny-texts tiny-talks" in printed
    assert "tiny-texts: Tiny texts (takes --scorer, --shots K)" in printed
    assert f"{PAIRS.path}  {PAIRS.sha256}" in printed
    assert "talks/talks.jsonl  no known SHA-256" in printed
    assert "from example.org/talks (CC BY-NC 4.0): JSONL with text" in printed
    assert metaseq("--list", "tiny-talks") == 0
    assert capsys.readouterr().out.startswith("tiny-talks: Tiny talks")


def test_a_run_folder_keeps_its_own_results(home: Path) -> None:
    run = home / "runs/a"
    run.mkdir(parents=True)
    (run / "checkpoint_best.pt").touch()
    assert metaseq("tiny-pairs", "--path", "runs/a", "--data", "sets") == 0
    assert (run / "eval/tiny-pairs.json").is_file()
    file = ("--path", "runs/a/checkpoint_best.pt", "--data", "sets")
    assert metaseq("tiny-pairs", *file) == 0
    assert Path("eval-a-checkpoint_best-tiny-pairs.json").is_file()
    assert metaseq("tiny-pairs", "--path", "http://127.0.0.1:6010", "--data", "sets") == 0
    assert Path("eval-127.0.0.1-6010-tiny-pairs.json").is_file()


def test_a_page_and_a_plot_are_written_of_a_run_and_of_a_comparison(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metaseq(*GOOD, "--output", "a.json", "--page", "a.html") == 0
    assert "Tiny pairs" in Path("a.html").read_text()
    assert "page     a.html" in capsys.readouterr().err
    assert metaseq(*GOOD, "--output", "b.json") == 0
    assert metaseq("--compare", "a.json", "b.json", "--page", "both.html") == 0
    assert Path("both.html").is_file()
    assert metaseq("--compare", "a.json", "b.json", "--plot", "sizes.txt") == 2
    assert "`--plot` must end in .svg or .png, but is sizes.txt." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "is_there", "expected"),
    [(None, True, "cuda:1"), ("cuda", True, "cuda:1"), ("cpu", True, "cpu"), (None, False, None)],
)
def test_a_rank_takes_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str | None, is_there: bool, expected: str | None
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: is_there)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(device) == expected


def test_ranks_that_ask_a_server_take_no_gpu(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def opened(args: Any) -> FakeModel:
        asked.append(args.device)
        return FakeModel()

    monkeypatch.setattr(command, "open_model", opened)
    monkeypatch.setattr(command, "are_data_ranks", lambda size: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for path in ("http://127.0.0.1:6010", "model-hf"):
        metaseq("tiny-pairs", "--path", path, "--data", "sets", "--output", f"{len(asked)}.json")
    assert asked == [None, "cuda:0"]
