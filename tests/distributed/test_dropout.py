"""Dropout under tensor parallelism: cut activations lose different elements, replicated ones the same.

Over 50 updates what every rank holds whole stays the same to the bit, and the loss falls as in one process.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin.models import opt
from metaseq_plugin.modules import attention as attention_module
from tests.fairseq_runs import train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

UPDATES = 50
TP2 = ("--model-parallel-size", 2)
DROPOUT = ("--dropout", 0.2, "--attention-dropout", 0.2, "--batch-size", 8, "--disable-validation")


class RandomStates(Recorder):
    """Also keeps the state of torch's generator where activations and attention weights are dropped."""

    def __call__(self, rank: int = 0) -> None:
        super().__call__(rank)
        states: dict[str, list[bytes]] = {"activations": [], "attention": []}
        drop, attend = opt.dropout, attention_module.dropped_attention

        def keep(kind: str) -> None:
            states[kind].append(torch.get_rng_state().numpy().tobytes())
            torch.save(states, self._file("states", rank))

        def dropout(*args: Any, **kwargs: Any) -> Any:
            keep("activations")
            return drop(*args, **kwargs)

        def attention(*args: Any, **kwargs: Any) -> Any:
            keep("attention")
            return attend(*args, **kwargs)

        opt.dropout = dropout
        attention_module.dropped_attention = attention

    def states(self, rank: int) -> dict[str, list[bytes]]:
        loaded: dict[str, list[bytes]] = torch.load(self._file("states", rank))
        return loaded


@pytest.mark.parametrize("cuts_tokens", [False, True], ids=["heads cut", "tokens cut too"])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_ranks_drop_the_same_only_where_they_hold_the_same(
    tmp_path: Path, cuts_tokens: bool, recomputed: bool
) -> None:
    options = [*TP2, *DROPOUT, "--max-update", 1, "--no-save"]
    options += ["--sequence-parallel"] * cuts_tokens + ["--checkpoint-activations"] * recomputed
    recorder = RandomStates(tmp_path / "rows")
    data = write_data(tmp_path / "data")
    ended = train_ranks(2, data, tmp_path / "run", *options, prepare=recorder)
    assert [rank.status for rank in ended] == [0, 0], ended[1].output

    first, second = recorder.states(0), recorder.states(1)
    passes = 2 if recomputed else 1
    num_layers, dropouts_in_layer = 2, 2
    for states in (first, second):
        assert len(states["attention"]) == num_layers * passes
        assert len(states["activations"]) == num_layers * dropouts_in_layer * passes
    for kind, is_cut in (("attention", True), ("activations", cuts_tokens)):
        same = [a == b for a, b in zip(first[kind], second[kind])]
        assert not any(same) if is_cut else all(same), kind
    if recomputed:  # backward recomputes layer after layer, the last one first
        forward, again = first["attention"][:num_layers], first["attention"][num_layers:]
        assert again == forward[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("--sequence-parallel",)], ids=["plain", "sequence"])
def test_replicas_stay_the_same_and_the_loss_falls_as_in_one_process(
    tmp_path: Path, extra: tuple[str, ...]
) -> None:
    data = write_data(tmp_path / "data", documents=400, longest=24)
    options = [*DROPOUT, "--max-update", UPDATES, "--no-save", "--seed", 3]
    one, two = Recorder(tmp_path / "one"), Recorder(tmp_path / "two", weights=True)
    assert train(data, tmp_path / "a", *options, prepare=one).status == 0
    ended = train_ranks(2, data, tmp_path / "b", *options, *TP2, *extra, prepare=two)
    assert [rank.status for rank in ended] == [0, 0], ended[1].output
    assert two.numbers("loss", rank=0) == two.numbers("loss", rank=1)
    assert two.weights()  # asserts that what several ranks hold is equal
    last = slice(UPDATES - 20, None)
    means = [sum(r.numbers("loss")[last]) / 20 for r in (one, two)]
    fallen = one.numbers("loss")[0] - means[0]
    assert fallen > 0.02
    assert abs(means[1] - means[0]) < fallen / 4
