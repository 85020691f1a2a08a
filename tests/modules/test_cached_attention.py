"""New tokens read into a cache give what whole rows give, and a step asks the device nothing."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metaseq_plugin.modules import cached_attention, kv_cache
from metaseq_plugin.modules.cached_attention import DecodeStep, Prefill
from metaseq_plugin.modules.kv_cache import KVCache
from tests.cached_reading import cached_logits
from tests.opt_models import KINDS, TINY, decoder, tokens

TOLERANCE = 1e-5
LENGTHS = (20, 7, 33, 1, 12)
NUM_READ = (5, 7, 30, 1, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(64, 16), (4, 3)], ids=["one bucket", "many buckets"])
def test_rows_of_any_length_as_in_full_passes(
    kind: str, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_cache, "SMALLEST_ROOM", sizes[0])
    monkeypatch.setattr(cached_attention, "COLUMN_STEP", sizes[1])
    model = decoder(**KINDS[kind])
    rows = [tokens(1, n, seed=n)[0].tolist() for n in LENGTHS]
    found = cached_logits(model, rows, NUM_READ, spoils=True)
    for row, logits in zip(rows, found, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([row]))[0][0]
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


class Calls(TorchDispatchMode):
    """The names of all operators that are called, and the shapes of what attention reads."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names.add(name)
        if "attention" in name:
            self.shapes.add(tuple(args[1].shape))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_step_reads_nothing_back_and_has_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_attention, "COLUMN_STEP", 8)
    model = decoder(**TINY)
    cache = KVCache(len(model.layers), model.longest)
    cache.admit([40, 40])
    prompts = tokens(2, 6)
    model(prompts, cache=Prefill(cache, [0, 1], [6, 3]))
    calls = Calls()
    for _ in range(12):
        with calls:
            model(prompts[:, :1], cache=DecodeStep(cache, prompts.device, torch.float32))
    assert calls.names.isdisjoint({"_local_scalar_dense", "nonzero", "is_nonzero", "item"})
    assert calls.shapes == {(2, 4, width, 8) for width in (8, 16, 24)}
    assert cache.buckets[0].lengths == [18, 15]


@torch.no_grad()
def test_a_pass_that_fails_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(**TINY)
    rows = tokens(1, 9)
    cache = KVCache(len(model.layers), model.longest)
    cache.admit([9])
    model(rows[:, :8], cache=Prefill(cache, [0], [8]))
    last = model.layers[-1]
    with monkeypatch.context() as broken:
        broken.setattr(last, "feed_forward", None)
        with pytest.raises(TypeError):
            model(rows[:, 8:], cache=DecodeStep(cache, rows.device, torch.float32))
    assert cache.buckets[0].lengths == [8]
    found = model(rows[:, 8:], cache=DecodeStep(cache, rows.device, torch.float32))[0]
    torch.testing.assert_close(found[:, 0], model(rows)[0][:, -1], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_full_row_that_goes_on_harms_nobody() -> None:
    model = decoder(**TINY)
    rows = tokens(2, 40)
    cache = KVCache(len(model.layers), model.longest)
    cache.admit([40, 40])
    model(rows[:, :39], cache=Prefill(cache, [0, 1], [39, 30]))
    found = []
    for column in range(9):
        step = torch.stack([rows[0, 39:40], rows[1, 30 + column : 31 + column]])
        found.append(model(step, cache=DecodeStep(cache, rows.device, torch.float32))[0][1, 0])
    assert cache.buckets[0].lengths == [40, 39]
    expected = model(rows[1:, :39])[0][0, 30:]
    torch.testing.assert_close(torch.stack(found), expected, atol=TOLERANCE, rtol=0)
