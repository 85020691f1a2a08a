"""What ranks send: equal to what ``test_collectives.py`` counts in real runs, and by hand for the 175B."""

import pytest

from metaseq_plugin.launch.batch import Batch
from metaseq_plugin.launch.plan.communication import (
    HOST,
    NETWORK,
    NODE,
    exchange,
    network_rate,
    ring_bytes,
)
from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.plan.planned import Planned
from metaseq_plugin.ledger.rates import device
from metaseq_plugin.sizes import OPTSize
from tests.distributed import test_collectives as counted
from tests.launch.plan.plans import OPT_175B, plan

LAYOUTS = [
    counted.Layout(dp=2),
    counted.Layout(dp=2, update_freq=2),
    counted.Layout(dp=2, shards=True),
    counted.Layout(dp=2, shards=True, bf16=True, update_freq=2),
    counted.Layout(dp=4, shards=True, zero2=True),
    counted.Layout(tp=2),
    counted.Layout(tp=2, sequence=True),
    counted.Layout(tp=2, recompute=True),
    counted.Layout(tp=2, recompute=True, dropout=0.1),
    counted.Layout(tp=2, sequence=True, recompute=True),
    counted.Layout(tp=2, sequence=True, recompute=True, dropout=0.1, bf16=True),
    counted.Layout(dp=2, tp=2, shards=True, sequence=True, update_freq=2),
]


def planned_as(layout: counted.Layout) -> Planned:
    """The plan of a run of ``test_collectives.py``."""
    ranks = layout.dp * layout.tp
    tokens = counted.BATCH * counted.TOKENS * layout.dp * layout.update_freq
    return Planned(
        arch="opt",
        size=OPTSize(layers=counted.LAYERS, embed_dim=counted.DIM, heads=4),
        num_ranks=ranks,
        ranks_per_node=ranks,
        model_parallel_size=layout.tp,
        batch=Batch(counted.BATCH, layout.update_freq, tokens),
        tokens=float(tokens),
        settings=MemorySettings(
            batch_size=counted.BATCH,
            update_freq=layout.update_freq,
            tokens_per_sample=counted.TOKENS,
            precision="bf16" if layout.bf16 else "fp32",
            fully_sharded=layout.shards,
            reshard_after_forward=not layout.zero2,
            checkpoint_activations=layout.recompute or layout.selective,
            recompute="selective" if layout.selective else "whole",
            sequence_parallel=layout.sequence,
            dropout=layout.dropout,
            vocab_size=counted.VOCAB,
            position_rows=counted.POSITIONS,
        ),
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_bytes_are_those_that_are_counted_in_real_runs(layout: counted.Layout) -> None:
    in_real_runs = counted.data_parallel(layout) + counted.tensor_parallel(layout)
    assert exchange(planned_as(layout)).num_bytes == pytest.approx(counted.ring_bytes(in_real_runs))


def test_one_rank_sends_nothing() -> None:
    alone = exchange(planned_as(counted.Layout()))
    assert (alone.num_bytes, alone.seconds, alone.hidden_share(1.0)) == (0, 0, 1.0)


def test_a_ring() -> None:
    assert ring_bytes(100, 4) == 75
    assert ring_bytes(100, 4, all_reduce=True) == 150


def test_opt_175b_by_hand() -> None:
    """8 parts on a node, 124 shards over nodes of 200 GB/s; c = 2 bytes, x = 2 · 8 · 2048 · 12288."""
    sent = {each.what: each for each in plan(OPT_175B).exchange.sent}
    x = 2 * 8 * 2048 * 12288
    summed = sent["activations summed"]
    assert summed.num_bytes == pytest.approx((4 * 96 + 2 + 2 * 96) * x * 2 * 7 / 8)
    assert (summed.link, summed.seconds) == (NODE, pytest.approx(summed.num_bytes / 300e9))
    part = 174_604_468_224 / 8 * 1.0008  # norms, positions and some biases are in every part
    scattered = sent["gradients scattered"]
    assert scattered.num_bytes == pytest.approx(4 * part * 123 / 124, rel=1e-3)
    # All eight ranks of a node send at once through its 200 GB/s.
    assert (scattered.link, scattered.seconds) == (
        NETWORK,
        pytest.approx(scattered.num_bytes / 25e9),
    )


def test_what_hides() -> None:
    sent = plan(OPT_175B).exchange
    waits = sum(each.seconds for each in sent.sent if not each.hides_behind)
    assert sent.exposed_seconds(1e9) == pytest.approx(waits)
    assert sent.exposed_seconds(0) == pytest.approx(sent.seconds)
    assert sent.hidden_share(0) == pytest.approx(0)


def test_a_ring_leaves_a_node_once_for_each_part() -> None:
    """Of 16 ranks with 2 parts on nodes of 8, two rings of eight leave each node."""
    layout = counted.Layout(dp=8, tp=2, shards=True)
    two_nodes = planned_as(layout)._replace(ranks_per_node=8, device=device("a100-80gb"))
    gathered = exchange(two_nodes).sent[0]
    assert (gathered.link, gathered.seconds) == (
        NETWORK,
        pytest.approx(gathered.num_bytes * 2 / 200e9),
    )
    one_node = exchange(two_nodes._replace(ranks_per_node=16)).sent[0]
    assert (one_node.link, one_node.seconds) == (NODE, pytest.approx(gathered.num_bytes / 300e9))


def test_a_node_of_fewer_devices_has_fewer_ports() -> None:
    """Of the 8 ports of 25 GB/s that a node of eight A100s has, a node of four has four."""
    layout = counted.Layout(dp=8, tp=2, shards=True)
    four = planned_as(layout)._replace(ranks_per_node=4, device=device("a100-80gb"))
    gathered = exchange(four).sent[0]
    assert (gathered.link, gathered.seconds) == (NETWORK, pytest.approx(gathered.num_bytes * 2 / 100e9))  # fmt: skip
    assert network_rate(device("a100-80gb"), 1) == 25e9
    assert network_rate(device("a100-80gb"), 16) == 200e9
    # Parts of a model that do not fit on a node.
    apart = four._replace(ranks_per_node=1)
    summed = next(each for each in exchange(apart).sent if each.what == "activations summed")
    assert (summed.link, summed.seconds) == (NETWORK, pytest.approx(summed.num_bytes / 25e9))


@pytest.mark.parametrize("zero2", [False, True])
def test_what_cpu_offload_copies(zero2: bool) -> None:
    """Of 2 micro-batches on 4 shards: fp32 shards for each gather, fp32 gradients of each."""
    layout = counted.Layout(dp=4, shards=True, zero2=zero2, update_freq=2, bf16=True)
    planned = planned_as(layout)._replace(device=device("a100-80gb"))
    offloads = planned._replace(settings=planned.settings._replace(cpu_offload=True))
    plain, sent = exchange(planned).sent, exchange(offloads).sent
    assert sent[: len(plain)] == plain
    down, up = sent[len(plain) :]
    dim, layers = counted.DIM, counted.LAYERS
    of_a_layer = 12 * dim**2 + 13 * dim
    root = (counted.VOCAB + counted.POSITIONS) * dim + 2 * dim
    whole = layers * of_a_layer + root
    gathered = whole + (0 if zero2 else layers * of_a_layer)
    assert (down.num_bytes, up.num_bytes) == (2 * 4 * gathered / 4, 2 * 4 * whole / 4)
    assert (down.link, up.link) == (HOST, HOST)
    assert down.seconds == pytest.approx(down.num_bytes / 32e9)
    assert 0 < up.hides_behind < down.hides_behind + up.hides_behind < 1
    on_cpu = offloads._replace(settings=offloads.settings._replace(on_gpu=False))
    assert exchange(on_cpu).sent == exchange(on_cpu._replace(settings=on_cpu.settings._replace(cpu_offload=False))).sent  # fmt: skip
