"""Arithmetic of the benchmarks of the server and of decoding, and that both run."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.clients import NEW_TOKENS, PROMPT_TOKENS, STRATA, Answer, Load, requests_of
from benchmarks.decode import Result, goals, read_bytes
from benchmarks.serve import batches_of, report


def load_of(clients: int, *answers: Answer) -> Load:
    return Load(clients, begun=100.0, seconds=10.0, answers=list(answers))


EARLY = Answer(100.0, [101.0, 102.0, 103.0, 104.0], 104.5, tokens=8)
LATE = Answer(106.0, [108.0, 109.0, 111.0, 112.0], 112.5, tokens=40)  # half of it by 110


def test_the_rate_counts_what_had_come_when_the_time_was_over() -> None:
    assert load_of(2, EARLY, LATE).rate == (8 + 20) / 10


def test_latencies_are_of_whole_answers_and_first_tokens_of_first_pieces() -> None:
    load = load_of(2, EARLY, LATE)
    assert (load.latency(0), load.latency(50), load.latency(100)) == (4.5, 5.5, 6.5)
    assert (load.first_token(0), load.first_token(100)) == (1.0, 2.0)


def test_requests_are_the_same_for_a_seed_and_mixed_in_every_stretch() -> None:
    requests = requests_of(3, 5 * STRATA + 3, vocab_size=500)
    assert requests == requests_of(3, 5 * STRATA + 3, vocab_size=500) != requests_of(4, 43, 500)
    assert len(requests) == 43
    for bounds, lengths in (
        (PROMPT_TOKENS, [len(request.prompt) for request in requests]),
        (NEW_TOKENS, [request.new_tokens for request in requests]),
    ):
        width = (bounds[1] + 1 - bounds[0]) / STRATA
        for first in range(0, 5 * STRATA, STRATA):
            parts = [(n - bounds[0] + 0.5) // width for n in lengths[first : first + STRATA]]
            assert bounds[0] <= min(lengths) <= max(lengths) <= bounds[1]
            assert (
                abs(sum(parts) - sum(range(STRATA))) <= 2
            )  # a length may round into the next part
    assert all(4 <= token < 500 for request in requests for token in request.prompt)


def test_batches_by_hand_hold_requests_of_similar_length() -> None:
    batches = batches_of(requests_of(0, 40, 500))
    assert [len(batch) for batch in batches] == [16, 16, 8]
    lengths = [request.new_tokens for batch in batches for request in batch]
    assert lengths == sorted(lengths)


def test_the_report_sets_every_load_beside_one_client_and_hugging_face() -> None:
    args = argparse.Namespace(shape="tiny", dtype="float32", device="cpu", seconds=10.0)
    text = report([load_of(1, EARLY), load_of(2, EARLY, LATE)], 1.4, 1000, args)
    assert "| 1 | 1 | 0.8 | 1.00 | 0.57 | 4.50 | 4.50 | 1.00 | 1.00 |" in text
    assert "| 2 | 2 | 2.8 | 3.50 | 2.00 | 5.50 | 6.48 | 1.50 | 1.99 |" in text


def test_a_step_reads_every_matrix_of_the_model_once() -> None:
    args = argparse.Namespace(shape="tiny", dtype="float32")
    assert read_bytes(args) == 4 * (2 * 12 * 64 * 64 + 50272 * 64)


def test_goals_are_told_with_what_was_seen() -> None:
    results = [
        Result(1, 50.0, 25.0, 2.0, 30e9, 62.5, True), Result(8, 300.0, 100.0, 3.1, 30e9, 500.0, True),
    ]  # fmt: skip
    assert goals(results, {"ours": 90, "hugging face": 100}) == [
        "- batch 1, of the bound: 80%, wanted at least 80%",
        "- batch 8, beside Hugging Face: 3.10, wanted at least 3",
        "- peak memory, beside Hugging Face's: 0.90, wanted at most 1",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["serve", "--clients", "1", "3", "--seconds", "0.5", "--batched", "2"],
        ["decode", "--batches", "1", "2", "--rounds", "1", "--new-tokens", "4"],
    ],
)
def test_it_runs_and_writes_its_results(options: list[str], tmp_path: Path) -> None:
    file = tmp_path / "results.md"
    words = [sys.executable, "-m", f"benchmarks.{options[0]}", "--shape", "tiny", *options[1:]]
    subprocess.run([*words, "--results", str(file)], check=True)
    assert "tok/s" in file.read_text()
