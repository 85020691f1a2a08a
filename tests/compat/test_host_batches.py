"""What goes to a GPU is pinned and sent in one copy; a run on the CPU does not reach it."""

from typing import Any, Optional

import numpy as np
import pytest
import torch
from torch import Tensor

from metaseq_plugin.compat import host_batches


def test_every_tensor_of_a_batch_is_pinned_before_it_is_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)

    def move(sample: Any, device: Optional[Any] = None) -> Any:
        assert device == "cuda:0"
        return sample

    sample = {"net_input": {"src_tokens": torch.arange(6)}, "target": torch.arange(3), "ntokens": 3}
    moved = host_batches.pinning(move)(sample, "cuda:0")
    assert moved["target"] is pinned[1]
    assert moved["net_input"]["src_tokens"] is pinned[0]
    assert [tensor.tolist() for tensor in pinned] == [[0, 1, 2, 3, 4, 5], [0, 1, 2]]
    assert moved["ntokens"] == 3


def test_what_is_moved_to_the_cpu_is_not_pinned() -> None:
    sample = {"target": torch.arange(3)}
    moved = host_batches.pinning(lambda given, device: given)(sample, torch.device("cpu"))
    assert moved is sample


def test_a_tensor_that_is_there_is_left_alone() -> None:
    there = torch.zeros(3, device="meta")
    assert host_batches.pinned(there) is there


def test_numbers_of_the_host_are_sent_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_batches, "pinned", lambda tensor: tensor)
    there = torch.zeros((), device="meta")
    data = {"loss": there, "ntokens": 7, "seconds": 0.5, "sample_size": torch.tensor(3)}
    sent = host_batches.sent(data, torch.device("cpu"))
    assert list(sent) == list(data)
    assert sent["loss"] is there
    assert [float(sent[name]) for name in ("ntokens", "seconds", "sample_size")] == [7, 0.5, 3]
    assert sent["ntokens"].dtype == torch.float64
    assert (
        sent["ntokens"].untyped_storage().data_ptr() == sent["seconds"].untyped_storage().data_ptr()
    )


def test_what_is_not_one_number_goes_fairseqs_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_batches, "pinned", lambda tensor: tensor)
    several = {"counts": np.arange(3), "rates": [0.5, 1.5], "row": torch.ones(1)}
    sent = host_batches.sent({**several, "ntokens": 7}, torch.device("cpu"))
    assert all(sent[name] is value for name, value in several.items())


def test_ranks_on_the_cpu_add_up_as_ever() -> None:
    seen: list[Any] = []
    data = {"ntokens": 7}
    reduce = host_batches.sending_ahead(lambda *given: seen.append(given))
    reduce(data, torch.device("cpu"), None)
    assert seen[0][0] is data
