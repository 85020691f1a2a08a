"""What the ranks send each other for one update, over which link, and how much of it computing can hide.

Legend: P parameters of a model part, P₀ those outside the layers (the root of FSDP), c bytes of a number that is
computed with, B·T tokens of a micro-batch, D model dim, L layers, u micro-batches of an update (--update-freq), t model
parts, d data-parallel ranks. A ring of n ranks lets each send (n-1)/n of what is gathered or scattered, and twice that
of what is summed for all (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002).

    data parallel                                          calls for an update      hidden behind
    ZeRO-3       all-gather        c·(2P - P₀)             u times                  forward and backward
                 reduce-scatter    4·P                     u times                  backward
    ZeRO-2       all-gather        c·P                     u times                  forward
                 reduce-scatter    4·P                     u times                  backward
    neither      all-reduce        4·P, in 16 bits 2·P     once                     backward of the last micro-batch

    model parts
    all-reduce   c·B·T·D    4·L + 2 times, and 2·L more if recomputed     u times   nothing: the next product waits
    all-gather   8·t·B·T    the loss: two fp32 numbers a token and rank   u times   nothing

    --cpu-offload, between the device and its CPU's memory, d-th parts:
    weights      4·(2P - P₀)/d, ZeRO-2 4·P/d               u times                  forward and backward
    gradients    4·P/d                                     u times                  backward of the first micro-batch;
                                                                                    later ones wait to be added up

``tests/distributed/test_collectives.py`` counts exactly these calls in real runs. With --sequence-parallel a gather and
a scatter stand for each all-reduce, at the same number of bytes, and once an update what was summed over T/t tokens is
summed over the parts. Where rows do not divide, FSDP sends up to d - 1 rows of each parameter more: left out.

Neighbours on a node are the ranks of one model (t of them) first, then other shards. What stays on a node takes the
device's link; a data-parallel ring that leaves it passes through the node's network once a ring, t rings at a time. The
table has the network of a node of eight, whose ports the eight share evenly; a node of fewer devices has their ports.
"""

from typing import NamedTuple

from metaseq_plugin.launch.plan.planned import Planned, part_elements
from metaseq_plugin.ledger.rates import Device

FP32 = 4
NODE, NETWORK, HOST = "device link", "network", "host link"
DEVICES_OF_A_NODE = 8  # of the table's (``ledger/rates.py``)


class Sent(NamedTuple):
    """One kind of exchange of an update.

    Attributes:
        what: in words.
        num_bytes: that a rank sends.
        link: ``NODE``, ``NETWORK`` or ``HOST``.
        seconds: at the link's full rate; 0 where no device was named.
        hides_behind: share of the update's computing that runs at the same time.
    """

    what: str
    num_bytes: float
    link: str
    seconds: float
    hides_behind: float


class Exchange(NamedTuple):
    """All of an update, and what is left of it beside so many seconds of computing."""

    sent: tuple[Sent, ...]

    @property
    def num_bytes(self) -> float:
        return sum(each.num_bytes for each in self.sent)

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.sent)

    def exposed_seconds(self, compute_seconds: float) -> float:
        """What cannot hide: all of what a product waits for, and what outlasts the computing beside it."""
        never = sum(each.seconds for each in self.sent if not each.hides_behind)
        hiding = [each for each in self.sent if each.hides_behind]
        room = compute_seconds * min(1.0, sum(each.hides_behind for each in hiding))
        return never + max(0.0, sum(each.seconds for each in hiding) - room)

    def hidden_share(self, compute_seconds: float) -> float:
        """Of the exchange's seconds; 1 where there is none."""
        if not self.seconds:
            return 1.0
        return 1.0 - self.exposed_seconds(compute_seconds) / self.seconds


def ring_bytes(payload: float, ranks: int, all_reduce: bool = False) -> float:
    """What a rank of a ring sends so that ``payload`` bytes are gathered, scattered, or summed for all."""
    return payload * (ranks - 1) / ranks * (2 if all_reduce else 1)


def exchange(planned: Planned) -> Exchange:
    """Everything that a rank sends for an update."""
    return Exchange((*data_parallel(planned), *tensor_parallel(planned), *offloaded(planned)))


def data_parallel(planned: Planned) -> tuple[Sent, ...]:
    """Weights and gradients, between ranks that hold the same model part."""
    settings, ranks = planned.settings, planned.data_parallel_size
    if ranks == 1:
        return ()
    whole = part_elements(planned, planned.model_parallel_size)
    micro_batches, width = planned.batch.update_freq, settings.compute_bytes
    forward = planned.flops.forward / planned.hardware_flops
    backward = 1 - forward

    def sent(what: str, payload: float, hides_behind: float, all_reduce: bool = False) -> Sent:
        num_bytes = ring_bytes(payload, ranks, all_reduce)
        link, seconds = data_link(planned, num_bytes)
        return Sent(what, num_bytes, link, seconds, hides_behind)

    if not settings.fully_sharded:
        return (sent("gradients summed", width * whole, backward / micro_batches, all_reduce=True),)
    return (
        sent("weights gathered", micro_batches * width * gathered_elements(planned), forward),
        sent("gradients scattered", micro_batches * FP32 * whole, backward),
    )


def gathered_elements(planned: Planned) -> int:
    """Of a micro-batch: all for the forward pass, and with ZeRO-3 the layers' again for the backward pass."""
    whole = part_elements(planned, planned.model_parallel_size)
    again = whole - root_elements(planned) if planned.settings.reshard_after_forward else 0
    return whole + again


def offloaded(planned: Planned) -> tuple[Sent, ...]:
    """With --cpu-offload, what a rank's shards and their gradients are copied between device and host, in fp32."""
    settings, device, micro_batches = planned.settings, planned.device, planned.batch.update_freq
    if not (settings.cpu_offload and settings.on_gpu):
        return ()
    forward = planned.flops.forward / planned.hardware_flops
    of_a_shard = micro_batches * FP32 / planned.data_parallel_size
    rows = (
        ("shards to the device", gathered_elements(planned), forward),
        (
            "gradients to the host",
            part_elements(planned, planned.model_parallel_size),
            (1 - forward) / micro_batches,
        ),
    )
    return tuple(
        Sent(what, num_bytes, HOST, num_bytes / device.host_rate if device else 0.0, hides_behind)
        for what, elements, hides_behind in rows
        for num_bytes in (of_a_shard * elements,)
    )


def root_elements(planned: Planned) -> int:
    """P₀: embeddings, last norm and the 350M's projections of a model part."""
    size, settings = planned.size, planned.settings
    layerless = planned._replace(size=size._replace(layers=0), settings=settings)
    return part_elements(layerless, planned.model_parallel_size)


def tensor_parallel(planned: Planned) -> tuple[Sent, ...]:
    """Activations, between the parts of one model."""
    settings, parts = planned.settings, planned.model_parallel_size
    if parts == 1:
        return ()
    layers, micro_batches = planned.size.layers, planned.batch.update_freq
    again = settings.layers_run_again(layers)
    # Without dropout PyTorch stops recomputing before the last product of a layer and its sum.
    stops = again if settings.dropout == 0 else 0
    reduced = 4 * layers + 2 + 2 * again - stops
    payload = settings.compute_bytes * settings.num_tokens * planned.size.embed_dim
    rows = [
        ("activations summed", micro_batches * reduced * ring_bytes(payload, parts, True)),
        ("loss", micro_batches * ring_bytes(2 * FP32 * parts * settings.num_tokens, parts)),
    ]
    if settings.sequence_parallel:
        # A gather and a scatter for each sum; the gather before a product is recomputed in any case.
        gathers = 4 * layers + 2 + 2 * again
        rows[0] = (
            "activations gathered and scattered",
            micro_batches * (gathers + reduced) * ring_bytes(payload, parts),
        )
        rows.append(("partial sums", ring_bytes(FP32 * whole_elements(planned), parts, True)))
    return tuple(
        Sent(what, num_bytes, *model_link(planned, num_bytes), hides_behind=0.0)
        for what, num_bytes in rows
    )


def whole_elements(planned: Planned) -> float:
    """What every model part holds whole: norms, positions and the biases that are added after a sum."""
    size, shards = planned.size, planned.layout.num_shards
    whole = size.layers * 6 * size.embed_dim + planned.settings.position_rows * size.embed_dim
    return (whole + (0 if size.post_norm else 2 * size.embed_dim)) / shards


def data_link(planned: Planned, num_bytes: float) -> tuple[str, float]:
    """The slower link of a data-parallel ring, and its seconds."""
    device, parts, on_node = planned.device, planned.model_parallel_size, planned.ranks_per_node
    leaves = planned.num_ranks > on_node
    if device is None:
        return (NETWORK if leaves else NODE), 0.0
    inside = num_bytes / device.link_rate if parts < on_node else 0.0
    if not leaves:
        return NODE, inside
    outside = num_bytes * min(parts, on_node) / network_rate(device, on_node)
    return (NETWORK, outside) if outside >= inside else (NODE, inside)


def model_link(planned: Planned, num_bytes: float) -> tuple[str, float]:
    """The link between the parts of a model: the network where they do not fit on a node."""
    device, parts, on_node = planned.device, planned.model_parallel_size, planned.ranks_per_node
    link = NODE if parts <= on_node else NETWORK
    if device is None:
        return link, 0.0
    rate = device.link_rate if link == NODE else network_rate(device, on_node)
    return link, num_bytes / rate


def network_rate(device: Device, on_node: int) -> float:
    """Bytes/s that a node of ``on_node`` devices sends to others: as many of the ports as it has devices."""
    return device.node_rate * min(on_node, DEVICES_OF_A_NODE) / DEVICES_OF_A_NODE
