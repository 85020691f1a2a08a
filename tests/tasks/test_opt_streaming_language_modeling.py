"""What the streaming task refuses, and where it takes its tokenizer from."""

from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import pytest
import torch
from fairseq.data import data_utils

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.skips import parse_skips
from metaseq_plugin.data.streaming import tokens
from metaseq_plugin.tasks.opt_streaming_language_modeling import blocks_a_batch
from tests.fairseq_runs import train
from tests.recorder import Recorder
from tests.tasks.streaming_data import STREAMING, write_streaming_data

SHORT = (*STREAMING, "--max-update", 2, "--disable-validation", "--no-save")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_streaming_data(tmp_path_factory.mktemp("streaming") / "data", 20)


REFUSED = [
    (["--shuffle-window", 0], "`--shuffle-window` must be at least 1, but is 0"),
    (["--corpus-weights", "code=1"], "`--corpus-weights` must name each corpus (code, prose)"),
    (["--corpus-weights", "code"], "`--corpus-weights` must be name=weight pairs"),
    (["--multicorpus-sampling-alpha", -1], "`--multicorpus-sampling-alpha` must be at least 0"),
    (["--multicorpus-sampling-maximum", 0], "`--multicorpus-sampling-maximum` must be above 0"),
    (["--skip-batches", "5-3"], "`--skip-batches` must be updates or ranges"),
    (["--bpe", "gpt2"], "`--bpe` must be one of opt_bpe, opt_sentencepiece"),
    (["--bpe", "opt_bpe"], "`--opt-bpe-vocab` must be set"),
    (["--max-tokens", 31], "`--max-tokens` must be at least --tokens-per-sample (32), but is 31"),
    (["--batch-size", 0], "`--batch-size` must be at least 1, but is 0"),
    (["--train-subset", "test"], "`DATA` must hold a folder test"),
    (["--combine-valid-subsets"], "`--combine-valid-subsets` must be left out with this task"),
    (["--tokens-per-sample", 4096], "`--tokens-per-sample` must be at most"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_mistakes_are_refused_in_one_sentence(
    tmp_path: Path, data: Path, options: List[Any], said: str
) -> None:
    ended = train(data, tmp_path, *SHORT, *options)
    assert ended.status == 2, ended.output
    assert ended.last_line.startswith("fairseq-train: error: ")
    assert said in ended.last_line
    assert "Traceback" not in ended.output


def test_no_tokenizer_is_refused(tmp_path: Path, data: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("train", "valid"):
        (bare / name).symlink_to(data / name)
    ended = train(bare, tmp_path, *SHORT)
    assert ended.status == 2
    assert "`--bpe` must be set where `DATA` holds no tokenizer" in ended.last_line
    files = ("--opt-bpe-vocab", data / "vocab.json", "--opt-bpe-merges", data / "merges.txt")
    ended = train(bare, tmp_path, *SHORT, "--bpe", "opt_bpe", *files)
    assert ended.status == 0, ended.output


@pytest.mark.slow
def test_bad_data_end_a_run_with_status_2(tmp_path: Path) -> None:
    data = write_streaming_data(tmp_path / "data", 20)
    path = data / "train" / "00" / "code.jsonl"
    path.write_text(path.read_text() + "{}\n")
    ended = train(data, tmp_path / "run", *SHORT, "--max-update", 99, "--num-workers", 2)
    assert ended.status == 2, ended.output
    assert f"Line 11 of '{path}' must be a JSON object" in ended.last_line
    ended = train(data, tmp_path / "run", *SHORT, "--max-epoch", 1, "--max-update", 0,
                  "--skip-bad-documents")  # fmt: skip
    assert ended.status == 0, ended.output
    assert ", 1 bad" in ended.output
    assert "left out: Line 11 of" in ended.output


@pytest.mark.slow
def test_a_run_that_bad_data_ended_goes_on_without_them(tmp_path: Path) -> None:
    data = write_streaming_data(tmp_path / "data", 60)
    for path in sorted((data / "train").rglob("code.jsonl")):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:20], "{}\n", *lines[20:]]))
    # Small runs of documents, so that the bad ones are not read with the first.
    options = (*STREAMING, "--disable-validation", "--shuffle-window", 4, "--max-update", 20,
               "--num-workers", 0, "--save-interval-updates", 1)  # fmt: skip
    whole, parts = Recorder(tmp_path / "whole"), Recorder(tmp_path / "parts")
    skipping = (*options, "--skip-bad-documents")
    assert train(data, tmp_path / "a", *skipping, prepare=in_small_runs(whole)).status == 0
    ended = train(data, tmp_path / "b", *options, prepare=in_small_runs(parts))
    assert ended.status == 2
    assert "Or set --skip-bad-documents." in ended.last_line
    done = len(parts.rows())
    assert 0 < done < 20
    # What was done is saved, and a run that needs no more is not bothered.
    assert (tmp_path / "b" / f"checkpoint_1_{done}.pt").exists()
    enough, small = ("--max-update", done), in_small_runs(Recorder(tmp_path / "enough"))
    assert train(data, tmp_path / "c", *options, *enough, prepare=small).status == 0
    assert train(data, tmp_path / "b", *skipping, prepare=in_small_runs(parts)).status == 0
    assert parts.rows() == whole.rows()


def in_small_runs(recorder: Recorder) -> Callable[[], None]:
    def prepare() -> None:
        tokens.RANGE_DOCUMENTS = 2
        recorder()

    return prepare


@pytest.mark.slow
def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path, data: Path) -> None:
    run = tmp_path / "run"
    options = (*STREAMING, "--disable-validation")
    assert train(data, run, *options, "--max-update", 2).status == 0
    path = run / "checkpoint_last.pt"
    state = torch.load(path, weights_only=False)
    del state["extra_state"]["train_iterator"]["streaming"]
    torch.save(state, path)
    path.with_suffix(".manifest.json").unlink()  # it knows the file's checksum
    ended = train(data, run, *options, "--max-update", 4)
    assert ended.status == 2, ended.output
    assert "trained by another task. Set --reset-dataloader" in ended.last_line
    assert train(data, run, *options, "--max-update", 4, "--reset-dataloader").status == 0


def test_skips_are_parsed() -> None:
    assert parse_skips("100-200,160") == {100: 101, 160: 1}
    assert parse_skips(" 7 , 9-9") == {7: 1, 9: 1}
    assert parse_skips(None) == {}
    for bad in ("", "0", "5-4", "a", "1,1", "1-2-3", "-3", "1,"):
        if bad:
            with pytest.raises(UserError, match="`--skip-batches` must be"):
                parse_skips(bad)


def test_the_smaller_limit_decides() -> None:
    assert blocks_a_batch(None, 4, 32) == 4
    assert blocks_a_batch(100, None, 32) == 3
    assert blocks_a_batch(100, 2, 32) == 2
    assert blocks_a_batch(64, 4, 32) == 2


@pytest.mark.parametrize("multiple", [1, 3, 8])
def test_batches_are_as_large_as_fairseqs(multiple: int) -> None:
    for most in range(1, 25):
        (first, *_) = data_utils.batch_by_size(
            np.arange(100), num_tokens_fn=lambda _: 32, num_tokens_vec=np.full(100, 32),
            max_sentences=most, required_batch_size_multiple=multiple,
        )  # fmt: skip
        assert blocks_a_batch(None, most, 32, multiple) == len(first)


def test_the_multiple_holds_for_training_and_validation(tmp_path: Path, data: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    options = ("--max-update", 2, "--batch-size", 5, "--required-batch-size-multiple", 2)
    ended = train(data, tmp_path, *SHORT, *options, prepare=recorder)
    assert ended.status == 0, ended.output
    assert [[len(ids) for ids in row["ids"]] for row in recorder.rows()] == [[4], [4]]


def test_the_dummy_task_knows_both_limits(tmp_path: Path) -> None:
    dummy = ("--task", "opt_dummy_lm", "--max-update", 1, "--disable-validation", "--no-save")
    recorder = Recorder(tmp_path / "run")
    ended = train(None, tmp_path, *dummy, "--max-tokens", 64, "--batch-size", 4, prepare=recorder)
    assert ended.status == 0, ended.output
    assert [len(ids) for ids in recorder.rows()[0]["ids"]] == [2]
    ended = train(None, tmp_path, *dummy, "--max-tokens", 31)
    assert ended.status == 2
    assert "`--max-tokens` must be at least --tokens-per-sample (32)" in ended.last_line
