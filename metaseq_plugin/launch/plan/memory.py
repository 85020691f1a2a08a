"""What a rank will hold while it trains, in bytes, at each moment of an update; the largest is its peak.

    plan = memory(SIZES["175b"], LAYOUTS["175b"], MemorySettings(batch_size=8, precision="fp16", …))
    plan.peak, plan.at_peak.name, fits(plan, 80 * 10**9)

Formulas only: nothing is built. ``states.py``, ``activations.py`` and ``loss.py`` have the parts. L layers, of which
backward has come to the k-th; "a layer" in bytes as it is computed with; a filled one as FSDP2 deals it out.

    moment      gathered                               gradient buffers          activations
    forward     root, a layer and its all-gather       -                         of L layers
    loss        root                                   -                         of L layers
    backward    root, layer k, all-gather of k - 1     reduce-scatter of k + 1   of k layers, and k's backward
    embedding   root                                   reduce-scatter of 1       -
    update      -                                      -                         -

Without FSDP nothing is gathered, and the buffers are DDP's buckets, which stay. With --no-reshard-after-forward
a layer once gathered stays until its backward. A reduce-scatter takes in a filled layer in fp32, and gloo copies it.
"""

from typing import Iterator, NamedTuple

from metaseq_plugin.launch.plan.activations import LayerActivations, layer_activations
from metaseq_plugin.launch.plan.loss import LossMemory, loss_memory
from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.plan.rank_shape import RankShape, rank_shape
from metaseq_plugin.launch.plan.states import States, states
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.sizes import OPTSize


class Moment(NamedTuple):
    """What a rank holds on its device at one moment of an update, in bytes, by what it is.

    Attributes:
        name: "forward", "loss", "backward", "embedding" or "update".
        parameters, gradients, optimizer: the states; between two updates nothing else is there.
        gathered: parameters as they are computed with: whole layers and the embedding, under FSDP.
        gradient_buffers: gradients before they are averaged over ranks, and DDP's buckets.
        activations: what forward keeps for backward.
        layer: what the layer that computes needs on top: recomputed activations, gradients of activations and weights.
        loss: logits of a chunk, and the gradients that the loss takes.
        workspace: what only one operation needs.
    """

    name: str
    parameters: int
    gradients: int
    optimizer: int
    gathered: int = 0
    gradient_buffers: int = 0
    activations: int = 0
    layer: int = 0
    loss: int = 0
    workspace: int = 0

    @property
    def total(self) -> int:
        return sum(self[1:])


class Memory(NamedTuple):
    """All moments of an update, and what --cpu-offload and --offload-activations put into CPU memory."""

    moments: tuple[Moment, ...]
    host: int = 0

    @property
    def at_peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def peak(self) -> int:
        return self.at_peak.total


def memory(size: OPTSize, layout: Layout, settings: MemorySettings, rank: int = 0) -> Memory:
    """What ``rank`` will hold; rank 0 holds no less than any other."""
    rank_plan = RankPlan(
        rank_shape(size, layout, settings), states(size, layout, settings, rank), settings
    )
    return Memory(tuple(rank_plan.moments()), rank_plan.host)


def fits(plan: Memory, device_bytes: int, baseline: int = 0) -> bool:
    """Whether the peak, and ``baseline`` bytes that a process needs before its model, fit on a device."""
    return headroom(plan, device_bytes, baseline) >= 0


def headroom(plan: Memory, device_bytes: int, baseline: int = 0) -> int:
    """Bytes of the device that stay free at the peak; negative: so many are missing."""
    return device_bytes - baseline - plan.peak


class RankPlan:
    """The moments of one rank, from its sizes and states."""

    def __init__(self, shape: RankShape, held: States, settings: MemorySettings) -> None:
        self.shape, self.held, self.settings = shape, held, settings
        self.activations: LayerActivations = layer_activations(shape, settings)
        self.loss: LossMemory = loss_memory(shape, settings)
        sharded = settings.fully_sharded
        self.root = shape.compute * shape.root * sharded  # gathered
        self.gathered_layer = shape.compute * shape.layer * sharded
        self.all_gather = self.gathered_layer if shape.shards > 1 else 0
        # What goes into a reduce-scatter, in fp32; gloo, which a CPU's ranks speak, copies it.
        self.reduce_scatter = 4 * shape.layer * sharded
        if shape.shards > 1 and not settings.on_gpu:
            self.reduce_scatter *= 2

    @property
    def kept_by_layer(self) -> int:
        """On the device, of each layer that waits for its backward."""
        if not self.settings.checkpoint_activations:
            return self.activations.kept
        return 0 if self.offloads else self.activations.input

    @property
    def offloads(self) -> bool:
        return self.settings.offload_activations and self.settings.on_gpu

    @property
    def host(self) -> int:
        """Bytes in CPU memory."""
        states_there = sum(self.held[:3]) if self._states_are_on_host else 0
        return states_there + self.shape.layers * self.activations.input * self.offloads

    @property
    def _states_are_on_host(self) -> bool:
        return self.settings.cpu_offload and self.settings.on_gpu

    def gradients_at(self, num_layers: int) -> int:
        """Gradients that are there once backward has left ``num_layers`` layers behind."""
        if self.settings.update_freq > 1:
            return self.held.gradients
        per_layer = 4 * self.shape.layer // self.shape.shards
        if not self.settings.fully_sharded:
            per_layer = self.shape.compute * self.shape.layer
        return self.held.kept_gradients + num_layers * per_layer

    def moment(self, name: str, gradients: int, gradient_buffers: int = 0, **parts: int) -> Moment:
        """``parts`` with the states, which lie elsewhere with --cpu-offload."""
        parameters, optimizer = self.held.parameters, self.held.optimizer
        if self._states_are_on_host:
            parameters = gradients = optimizer = 0
        buffers = gradient_buffers + self.held.buckets
        return Moment(name, parameters, gradients, optimizer, gradient_buffers=buffers, **parts)

    def moments(self) -> Iterator[Moment]:
        """In the order of an update."""
        layers, outside = self.shape.layers, self.shape.outside
        left_gathered = 0 if self.settings.reshard_after_forward else self.gathered_layer
        before = self.gradients_at(0)
        waiting = layers * self.kept_by_layer + outside  # and the last norm's input
        features = self.shape.compute * self.settings.num_tokens * self.shape.word_dim
        recomputes = self.settings.checkpoint_activations
        yield self.moment(
            "forward",
            before,
            gathered=self.root
            + max(self.gathered_layer, layers * left_gathered)
            + self.all_gather,
            activations=layers * self.kept_by_layer,
            layer=self.activations.in_forward if recomputes else 2 * self.shape.entered,
        )
        gathered = self.root + layers * left_gathered
        loss = max(self.loss.in_forward + features, self.loss.in_backward)
        yield self.moment("loss", before, gathered=gathered, activations=waiting, loss=loss)
        for layer in sorted({layers, max(layers - 1, 1), 1}, reverse=True):
            yield from self.backward(layer)
        yield self.moment(
            "embedding",
            self.gradients_at(layers),
            self.reduce_scatter,
            gathered=self.root,
            layer=self.shape.compute * self.shape.root,
            loss=self.loss.waiting,
        )
        yield self.moment("update", self.held.gradients, workspace=self.held.workspace)

    def backward(self, layer: int) -> Iterator[Moment]:
        """The moments of the backward of the ``layer``-th of all layers: while it computes, and when it has."""
        behind = self.shape.layers - layer
        if self.settings.reshard_after_forward:
            prefetched = self.all_gather if layer > 1 else 0
            gathered = self.root + prefetched
        else:
            gathered = self.root + (layer - 1) * self.gathered_layer
        waiting = (layer - 1) * self.kept_by_layer
        kept = self.activations.kept
        if self.offloads:
            kept -= 0  # its input is fetched back
        yield self.moment(
            "backward",
            self.gradients_at(behind),
            self.reduce_scatter if behind else 0,
            gathered=gathered + self.gathered_layer,
            activations=waiting,
            layer=kept + self.activations.in_backward,
            loss=self.loss.waiting,
        )
        yield self.moment(
            "backward",
            self.gradients_at(behind + 1),
            self.reduce_scatter,
            gathered=gathered,
            activations=waiting,
            layer=self.shape.outside + self.shape.compute * self.shape.layer,
            loss=self.loss.waiting,
        )
