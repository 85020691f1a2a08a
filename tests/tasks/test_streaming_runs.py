"""Real trainings on raw text: resumed, on several ranks, with accumulated steps, validated."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch

from metaseq_plugin.hub import OPT
from metaseq_plugin.tokenizers.open import from_folder
from tests.fairseq_runs import run_fairseq, train
from tests.rank_runs import train_ranks
from tests.recorder import Recorder
from tests.tasks.streaming_data import STREAMING, write_streaming_data

OPTIONS = (*STREAMING, "--corpus-weights", "code=1,prose=1", "--shuffle-window", 16,
           "--dropout", 0.1, "--log-interval", 5)  # fmt: skip
QUIET = (*OPTIONS, "--disable-validation")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_streaming_data(tmp_path_factory.mktemp("streaming") / "data")


def trained(data: Path, folder: Path, *options: Any, **more: Any) -> str:
    ended = train(data, folder, *options, **more)
    assert ended.status == 0, ended.output
    return ended.output


# An epoch is about 28 updates of 2 batches: the stops lie in the first epoch and in the second.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_mode", "workers", "stops"),
    [
        pytest.param("none", 0, (7, 45), marks=pytest.mark.slow),
        pytest.param("complete", 2, (20,), marks=pytest.mark.slow),
        ("eos", 1, (13,)),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, data: Path, break_mode: str, workers: int, stops: List[int]
) -> None:
    options = (*QUIET, "--sample-break-mode", break_mode, "--update-freq", 2)
    whole, parts = Recorder(tmp_path / "whole"), Recorder(tmp_path / "parts")
    last = stops[-1] + 5
    trained(data, tmp_path / "a", *options, "--max-update", last, prepare=whole)
    for number, stop in enumerate((*stops, last)):
        trained(
            data, tmp_path / "b", *options, "--max-update", stop,
            "--num-workers", (workers + number) % 3, prepare=parts,
        )  # fmt: skip
    assert [row["update"] for row in whole.rows()] == list(range(1, last + 1))
    assert parts.rows() == whole.rows()
    ids = [number for row in whole.rows() for batch in row["ids"] for number in batch]
    assert len(set(ids)) == len(ids)
    assert ({number >> 40 for number in ids} == {1, 2}) == (last > 30)


def all_ids(rows: List[Dict[str, Any]]) -> List[int]:
    return [number for row in rows for batch in row["ids"] for number in batch]


@pytest.mark.slow
def test_ranks_take_turns_and_may_change(tmp_path: Path, data: Path) -> None:
    """1 rank, then 2, then 1: the samples of each update are those of one rank throughout."""
    one = Recorder(tmp_path / "one")
    trained(data, tmp_path / "a", *QUIET, "--update-freq", 2, "--max-update", 40, prepare=one)
    first, second, third = (Recorder(tmp_path / f"part{n}") for n in range(3))
    save = tmp_path / "b"
    trained(data, save, *QUIET, "--update-freq", 2, "--max-update", 11, prepare=first)
    ended = train_ranks(
        2, data, save, *QUIET, "--max-update", 33, "--num-workers", 1, prepare=second
    )
    assert [rank.status for rank in ended] == [0, 0], ended
    trained(data, save, *QUIET, "--update-freq", 2, "--max-update", 40, prepare=third)
    found = [row["ids"] for row in first.rows()]
    for mine, others in zip(second.rows(0), second.rows(1), strict=True):
        found.append([batch for turn in zip(mine["ids"], others["ids"]) for batch in turn])
    found += [row["ids"] for row in third.rows()]
    expected = [row["ids"] for row in one.rows()]
    assert len(found) == len(expected) == 40
    for update, (ours, theirs) in enumerate(zip(found, expected)):
        assert [i for batch in ours for i in batch] == [i for batch in theirs for i in batch], (
            update
        )


@pytest.mark.slow
def test_ranks_with_other_data_are_refused(tmp_path: Path, data: Path) -> None:
    """As on machines of which each has a copy of its own."""
    for rank in (0, 1):
        shutil.copytree(data, tmp_path / str(rank) / "data")
    prose = tmp_path / "1" / "data" / "train" / "01" / "prose.txt"
    prose.write_text(prose.read_text() + "\n\nOne more.")
    repository = Path.cwd()

    def go(rank: int) -> None:
        os.chdir(tmp_path / str(rank))

    user_dir = ("--user-dir", repository / "metaseq_plugin")
    ended = train_ranks(
        2, Path("data"), tmp_path / "run", *QUIET, *user_dir, "--max-update", 90, prepare=go
    )
    assert [rank.status for rank in ended] == [2, 2], ended
    output = ended[0].output + ended[1].output
    assert "must read the same data, but the files of `DATA` and" in output
    assert "differ between rank 0 and rank 1" in output


@pytest.mark.slow
def test_the_last_update_of_an_epoch_weighs_all_its_tokens(tmp_path: Path, data: Path) -> None:
    """It has 3 batches here: 2 ranks with 2 steps each leave one of the ranks without its second."""
    epoch = (*STREAMING, "--disable-validation", "--shuffle-window", 16, "--max-epoch", 1,
             "--dropout", 0, "--attention-dropout", 0, "--no-save")  # fmt: skip
    one, two = Recorder(tmp_path / "one"), Recorder(tmp_path / "two")
    trained(data, tmp_path / "a", *epoch, "--update-freq", 4, prepare=one)
    ended = train_ranks(2, data, tmp_path / "b", *epoch, "--update-freq", 2, prepare=two)
    assert [rank.status for rank in ended] == [0, 0], ended
    assert [len(two.rows(rank)[-1]["ids"]) for rank in (0, 1)] == [2, 1]
    for key in ("loss", "gnorm"):
        assert two.numbers(key) == pytest.approx(one.numbers(key), rel=1e-4), key


@pytest.mark.slow
def test_each_subset_is_validated_and_twice_alike(tmp_path: Path, data: Path) -> None:
    often = (*OPTIONS, "--validate-interval-updates", 6, "--log-format", "json", "--max-update", 12)
    outputs = [
        trained(data, tmp_path / name, *often, "--num-workers", workers)
        for name, workers in (("a", 0), ("b", 2))
    ]
    rows = [
        [json.loads(line) for line in re.findall(r"\| valid/\w+ \| (\{.*\})", output)]
        for output in outputs
    ]
    kept = [
        [{k: v for k, v in row.items() if k.endswith(("_loss", "_ppl", "_updates"))} for row in run]
        for run in rows
    ]
    assert kept[0] == kept[1]
    names = [next(key for key in row if key.endswith("_loss")) for row in kept[0]]
    assert names == ["valid/code_loss", "valid/prose_loss"] * 2
    assert "code: " in outputs[0]
    assert re.search(r"epoch 1 so far: 40 samples \(40 in this run\); code: ", outputs[0])


@pytest.mark.slow
def test_validating_on_the_training_split_leaves_training_alone(tmp_path: Path, data: Path) -> None:
    plain, validating = Recorder(tmp_path / "plain"), Recorder(tmp_path / "validating")
    trained(data, tmp_path / "a", *QUIET, "--max-update", 9, prepare=plain)
    for updates in (6, 9):
        output = trained(
            data, tmp_path / "b", *OPTIONS, "--valid-subset", "train", "--max-update", updates,
            "--validate-interval-updates", 3, prepare=validating,
        )  # fmt: skip
        assert "valid on 'train' subset" in output
    assert validating.rows() == plain.rows()


def test_the_state_says_what_was_seen(tmp_path: Path, data: Path) -> None:
    trained(data, tmp_path / "a", *QUIET, "--max-update", 70)
    state = torch.load(tmp_path / "a" / "checkpoint_last.pt", weights_only=True)["extra_state"]
    iterator = json.loads(json.dumps(state["train_iterator"]))  # JSON, and nothing lost by it
    assert iterator == state["train_iterator"]
    assert len(json.dumps(iterator)) < 2_000
    assert iterator["epoch"] == 2
    seen = iterator["streaming"]["seen_before"]
    assert {name: row["documents"] for name, row in seen.items()} == {"code": 45, "prose": 45}


@pytest.mark.slow
def test_skipped_batches_survive_a_restart(tmp_path: Path, data: Path) -> None:
    plain, skipping = Recorder(tmp_path / "plain"), Recorder(tmp_path / "skipping")
    trained(data, tmp_path / "a", *QUIET, "--max-update", 14, prepare=plain)
    for updates in (3, 4, 10):  # stops right before an update that skips, and right behind it
        trained(
            data, tmp_path / "b", *QUIET, "--skip-batches", "4-6,8", "--max-update", updates,
            prepare=skipping,
        )  # fmt: skip
    ids = [row["ids"] for row in plain.rows()]
    assert [row["ids"] for row in skipping.rows()] == [*ids[:3], *ids[6:10], *ids[11:14]]


def test_a_run_folder_has_the_tokenizer(tmp_path: Path, data: Path) -> None:
    """The hub and ``metaseq convert`` look for it there, and in a data folder only beside dict.txt."""
    own = tmp_path / "data"
    shutil.copytree(data, own)
    run = tmp_path / "run"
    files = ("--opt-bpe-vocab", own / "vocab.json", "--opt-bpe-merges", own / "merges.txt")
    trained(own, run, *QUIET, "--bpe", "opt_bpe", *files, "--max-update", 3)
    made = (run / "dict.txt").stat().st_mtime_ns
    trained(own, run, *QUIET, "--bpe", "opt_bpe", *files, "--max-update", 5)
    assert (run / "dict.txt").stat().st_mtime_ns == made
    shutil.rmtree(own)
    opt = OPT.from_pretrained(run)
    assert opt.decode(opt.encode("def main():")) == "def main():"
    assert opt.generate(["def"], max_new_tokens=2, seed=1)[0][0].text is not None
    trained(data, tmp_path / "quiet", *QUIET, "--max-update", 1, "--no-save")
    assert not (tmp_path / "quiet" / "dict.txt").exists()


@pytest.mark.slow
def test_a_trained_model_is_validated_and_generates(tmp_path: Path, data: Path) -> None:
    trained(data, tmp_path / "run", *QUIET, "--max-update", 5)
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    common = (data, "--user-dir", "metaseq_plugin", "--path", checkpoint, "--cpu")
    validated = run_fairseq(
        "validate", *common, *STREAMING, "--batch-size", 4, "--tokens-per-sample", 32,
        "--valid-subset", "valid/code", log_dir=tmp_path,
    )  # fmt: skip
    assert validated.status == 0, validated.output
    assert "valid on 'valid/code' subset" in validated.output
    ppl = re.search(r"\| ppl ([0-9.]+) ", validated.output)
    evaluation = (
        *common, "--task", "opt_streaming_language_modeling", "--batch-size", 4,
        "--tokens-per-sample", 32, "--gen-subset", "valid/code",
    )  # fmt: skip
    evaluated = run_fairseq("eval-lm", *evaluation, log_dir=tmp_path)
    assert evaluated.status == 0, evaluated.output
    assert ppl is not None
    assert f"Perplexity: {ppl[1]}" in evaluated.output
    refused = run_fairseq("eval-lm", *evaluation, "--context-window", 8, log_dir=tmp_path)
    assert refused.status == 2
    assert "`--context-window` must be 0 with this task, but is 8" in refused.last_line
    said = run_fairseq(
        "interactive", *common, "--task", "opt_streaming_language_modeling", "--beam", 1,
        "--max-len-b", 20, stdin="  def main\n", log_dir=tmp_path,
    )  # fmt: skip
    assert said.status == 0, said.output
    assert f"S-0\t{from_folder(data).encode_symbols('  def main')}\n" in said.output
    bare = tmp_path / "bare"  # then it is the one that the run has put beside its checkpoints
    bare.mkdir()
    again = run_fairseq(
        "interactive", bare, *common[1:], "--task", "opt_streaming_language_modeling", "--beam", 1,
        "--max-len-b", 20, stdin="  def main\n", log_dir=tmp_path,
    )  # fmt: skip
    written = re.compile(r"^[SH]-0.*$", re.MULTILINE)
    assert written.findall(again.output) == written.findall(said.output)
