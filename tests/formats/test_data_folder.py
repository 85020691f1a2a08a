"""A run that was copied or moved finds its data folder, for every door that needs it."""

import shutil
from pathlib import Path

import pytest

from metaseq_plugin.checkpoint.set_file import DATA_FROM_RUN
from metaseq_plugin.formats.data_folder import data_folder, data_folder_at
from metaseq_plugin.hub import OPT
from metaseq_plugin.tokenizers.open import from_folder
from metaseq_plugin.tokenizers.train import train_byte_level_bpe
from tests.fairseq_runs import run_fairseq, train, write_split
from tests.formats.folders import run_convert

TEXTS = ["the cat sat on the mat\n", "naïve café ☕\n"] * 8
# Where the data lie in the folder that is copied, and where the run does.
PLACES = {
    "inside": ("runs/a/data", "runs/a"),
    "deeper": ("a/prepared/v2", "a"),
    "beside": ("data", "run"),
}


def text_data(folder: Path) -> Path:
    folder.mkdir(parents=True)
    train_byte_level_bpe(TEXTS, 300, folder)
    tokenizer = from_folder(folder)
    tokenizer.save(folder)
    for split in ("train", "valid"):
        write_split(folder, split, [tokenizer.encode(text).tolist() for text in TEXTS])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("typed_from_here", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", PLACES)
def test_a_copied_run_finds_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, typed_from_here: bool
) -> None:
    data, run = (Path("old") / part for part in PLACES[place])
    monkeypatch.chdir(tmp_path)
    text_data(data)
    base = Path() if typed_from_here else tmp_path
    ended = train(base / data, run, "--max-update", 1)
    assert ended.status == 0, ended.output
    expected = OPT.from_pretrained(run).encode("the cat")
    assert len(expected) < len("the cat")

    shutil.copytree("old", "elsewhere/new")
    shutil.rmtree("old")
    monkeypatch.chdir("elsewhere")
    data, run = (Path("new") / part for part in PLACES[place])
    for path in (run, run / "checkpoint_last.pt"):
        assert data_folder_at(path) is not None
        assert OPT.from_pretrained(path).encode("the cat") == expected
    run_convert(run, Path("hf"), "--to", "hf")
    assert OPT.from_pretrained("hf").encode("the cat") == expected
    ended = run_fairseq(
        "interactive", run, "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu",
        "--path", run / "checkpoint_last.pt", "--beam", 1, "--max-len-b", 1,
        log_dir=tmp_path, stdin="the cat\n",
    )  # fmt: skip
    assert ended.status == 0, ended.output
    symbols = from_folder(data).encode_symbols("the cat")
    assert f"S-0\t{symbols}\n" in ended.output


@pytest.mark.parametrize(
    ("from_run", "held", "found"),
    [
        ("data", ("run", "run/data", "typed"), "run"),
        ("data", ("run/data", "typed"), "run/data"),
        ("data", ("typed",), "typed"),
        ("../data", ("typed", "data"), "typed"),
        ("../data", ("data",), "run/../data"),
        (None, ("data", "typed"), "typed"),
        (None, ("data",), None),
    ],
)
def test_order(
    tmp_path: Path, from_run: str | None, held: tuple[str, ...], found: str | None
) -> None:
    for name in held:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "dict.txt").touch()
    (tmp_path / "run").mkdir(exist_ok=True)
    typed = f"{tmp_path / 'typed'}:{tmp_path / 'more'}"
    state = {DATA_FROM_RUN: from_run, "cfg": {"task": {"data": typed}}}
    expected = None if found is None else tmp_path / found
    assert data_folder(tmp_path / "run" / "checkpoint_last.pt", state) == expected
