"""The second witness of flattening: fairscale's real FullyShardedDataParallel, which metaseq trains with.

Its shards and ``local_metadata_dict()`` are read, and what is written loads into it strictly. Ranks are
stood for by a process group that only knows its rank and size, which is all that sharding asks.
"""

import contextlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from fairscale.nn.data_parallel import FullyShardedDataParallel
from torch import nn

from tests.formats import metaseq_forms as forms
from tests.formats.folders import assert_same_tensors, model_tensors, run_convert

PARTS, SHARDS = 2, 3


class Group:
    """A process group of which nothing is asked but this."""

    def __init__(self, rank: int, size: int) -> None:
        self.numbers = (rank, size)

    def rank(self) -> int:
        return self.numbers[0]

    def size(self) -> int:
        return self.numbers[1]


def wrapped(module: nn.Module, rank: int) -> Any:
    group, cpu = Group(rank, SHARDS), torch.device("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FullyShardedDataParallel(
            module, process_group=group, process_group_reduce_scatter=group, compute_device=cpu,
            flatten_parameters=True, compute_dtype=torch.float32, state_dict_device=cpu,
        )  # fmt: skip


def metaseq_model(part: forms.Weights, rank: int) -> Any:
    """One rank's model: modules named as metaseq's, each layer wrapped, and the tied projection."""
    root = nn.Module()
    for name, tensor in part.items():
        *path, last = name.split(".")
        module = root
        for word in path:
            if word not in module._modules:
                module.add_module(word, nn.ModuleList() if word == "layers" else nn.Module())
            module = module._modules[word]  # type: ignore[assignment]
        module.register_parameter(last, nn.Parameter(tensor.clone()))
    held: Any = root.decoder
    held.register_buffer("version", torch.tensor([3.0]))
    held.output_projection = nn.Module()
    held.output_projection.weight = held.embed_tokens.weight
    for number in range(len(held.layers)):
        held.layers[number] = wrapped(held.layers[number], rank)
    return wrapped(root, rank)


def test_shards_of_fairscale_are_read(tmp_path: Path) -> None:
    whole = forms.weights()
    for number, part in enumerate(forms.model_parts(whole, PARTS)):
        for rank in range(SHARDS):
            model = metaseq_model(part, rank)
            held = {name: tensor.clone() for name, tensor in model.local_state_dict().items()}
            metadata = model.local_metadata_dict()
            assert metadata["param_metadata"][0]["shared_param_info"]
            state = forms.state(held, forms.settings(), shard_metadata=metadata)
            torch.save(state, tmp_path / f"checkpoint_9-model_part-{number}-shard{rank}.pt")
    run_convert(tmp_path, tmp_path.with_name("ours"), "--to", "fairseq", "--overwrite")
    assert_same_tensors(model_tensors(tmp_path.with_name("ours") / "checkpoint.pt"), whole)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    forms.write_set(folder / "whole", forms.weights())
    run_convert(folder / "whole", folder / "cut", "--to", "metaseq", "--model-parallel-size", PARTS,
                "--num-shards", SHARDS)  # fmt: skip
    return folder / "cut"


def read(folder: Path, part: int) -> list[dict[str, Any]]:
    paths = [folder / f"reshard-model_part-{part}-shard{rank}.pt" for rank in range(SHARDS)]
    return [torch.load(path, weights_only=True) for path in paths]


def test_metadata_is_fairscales(written: Path) -> None:
    for number, part in enumerate(forms.model_parts(forms.weights(), PARTS)):
        for rank, state in enumerate(read(written, number)):
            assert state["shard_metadata"] == metaseq_model(part, rank).local_metadata_dict()


def test_shards_load_into_fairscale(written: Path) -> None:
    """What ``load_local_state_dict`` does, less its waiting for a GPU."""
    zeros = {
        n: torch.zeros_like(t) for n, t in forms.model_parts(forms.weights(), PARTS)[1].items()
    }
    for rank, state in enumerate(read(written, 1)):
        model = metaseq_model(zeros, rank)
        with contextlib.ExitStack() as stack:
            for wrapper in model.modules():
                if isinstance(wrapper, FullyShardedDataParallel):
                    stack.enter_context(wrapper._no_return_full_state_dict())
            model._lazy_init()
            model.module.load_state_dict(dict(state["model"]), strict=True)
        assert_same_tensors(dict(model.local_state_dict()), state["model"])


def test_fairscale_puts_the_shards_together(written: Path) -> None:
    for number, part in enumerate(forms.model_parts(forms.weights(), PARTS)):
        states = read(written, number)
        found = FullyShardedDataParallel.consolidate_shard_weights(
            [state["model"] for state in states], [state["shard_metadata"] for state in states]
        )
        assert torch.equal(found.pop("decoder.version"), torch.tensor([3.0]))
        assert_same_tensors(found, part)
