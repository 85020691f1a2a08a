"""What a rank will hold while it trains, in bytes, at each moment of an update; the largest is its peak.

    plan = memory(SIZES["175b"], LAYOUTS["175b"], MemorySettings(batch_size=8, precision="fp16", …))
    plan.peak, plan.at_peak.name, fits(plan, 80 * 10**9)

Formulas only: nothing is built. ``states.py``, ``activations.py`` and ``loss.py`` have the parts. L layers, of which
backward has come to the k-th; "a layer" in bytes as it is computed with; a filled one as FSDP2 deals it out.

    moment      gathered                               gradient buffers          activations
    gather      root twice, all-gather of layer 1      -                         -
    forward     root, layer L and its all-gather       -                         of L layers
    loss        root                                   -                         of L layers
    backward    root, layer k, all-gather of k - 1     reduce-scatter of k + 1   of k layers, and k's backward
    scatter     root, all-gather of k - 1              reduce-scatter of k       of k - 1 layers
    embedding   root                                   reduce-scatter of 1       -
    scatter     -                                      reduce-scatter of root    -
    update      -                                      -                         -

Without FSDP nothing is gathered, and the buffers are DDP's buckets, which stay. With --no-reshard-after-forward
a layer once gathered stays until its backward. A reduce-scatter takes in a filled layer in fp32, which gloo copies.

Not counted: token ids and what a norm keeps of each token (some 100 bytes a token), the allocator's rounding and gaps,
what a process has before its model (``baseline``). Not known: --document-attention, --compile.
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
        name: of the table above.
        parameters, gradients, optimizer: the states; between two updates nothing else is there.
        gathered: parameters as they are computed with, under FSDP; with them lie all-gathers that are not copied out.
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
        sharded, has_shards = settings.fully_sharded, shape.shards > 1
        self.root = shape.compute * shape.root * sharded  # as it is gathered
        self.layer = shape.compute * shape.layer * sharded
        self.all_gather = self.layer * has_shards  # of a layer, before it is copied out
        # What goes into a layer's reduce-scatter, in fp32, and stays until the next one; gloo, which a CPU's ranks
        # speak, has a copy of it meanwhile.
        self.reduce_scatter = 4 * shape.layer * sharded
        self.copies = 2 if has_shards and not settings.on_gpu else 1
        self.offloads_states = settings.cpu_offload and settings.on_gpu
        self.offloads_inputs = settings.offload_activations and settings.on_gpu
        self.checkpointed = settings.checkpointed_layers(shape.layers)

    @property
    def host(self) -> int:
        """Bytes in CPU memory."""
        inputs = self.checkpointed * self.activations.input * self.offloads_inputs
        return inputs + sum(self.held[:3]) * self.offloads_states

    def moments(self) -> Iterator[Moment]:
        """In the order of an update."""
        yield from self.forward()
        layers = self.shape.layers
        turns = {
            layers,
            layers - 1,
            self.checkpointed + 1,
            self.checkpointed,
            self.checkpointed - 1,
            1,
        }
        for layer in sorted(turns, reverse=True):  # between them it is linear
            if 1 <= layer <= layers:
                yield from self.backward(layer)
        yield self.moment(
            "embedding",
            self.gradients_of(layers),
            self.reduce_scatter,
            gathered=self.root,
            layer=self.shape.compute * self.shape.root,
            loss=self.loss.waiting,
        )
        if self.settings.fully_sharded:
            yield self.moment(
                "scatter",
                self.held.gradients,
                4 * self.shape.root * self.copies,
                layer=self.still_whole(self.shape.root),
            )
        yield self.moment("update", self.held.gradients, workspace=self.held.workspace)

    def forward(self) -> Iterator[Moment]:
        """The first layer, the last one, and the loss with the start of its backward."""
        layers, gradients = self.shape.layers, self.gradients_of(0)
        root_gather = self.root * (self.shape.shards > 1)  # before it is copied out
        yield self.moment("gather", gradients, gathered=self.root + root_gather + self.all_gather)

        stay = 0 if self.settings.reshard_after_forward else layers * self.layer
        for layer in sorted({self.checkpointed, layers} - {0}):
            runs_again = layer <= self.checkpointed and not self.settings.is_selective
            yield self.moment(
                "forward",
                gradients,
                gathered=self.root + max(self.layer, stay) + self.all_gather,
                activations=self.waiting(layer),
                layer=self.activations.in_forward if runs_again else 2 * self.shape.entered,
            )
        features = self.shape.compute * self.settings.num_tokens * self.shape.word_dim
        yield self.moment(
            "loss",
            gradients,
            gathered=self.root + stay,
            activations=self.waiting(layers) + self.shape.outside,  # and the last norm's input
            loss=max(features + self.loss.in_forward, self.loss.in_backward),
        )

    def backward(self, layer: int) -> Iterator[Moment]:
        """While the ``layer``-th of all layers computes its gradients, and when they are handed over."""
        behind = self.shape.layers - layer
        if self.settings.reshard_after_forward:
            others = self.all_gather * (layer > 1)  # of the next one
        else:
            others = (layer - 1) * self.layer
        waiting, outside = self.waiting(layer - 1), self.shape.outside
        yield self.moment(
            "backward",
            self.gradients_of(behind),
            self.reduce_scatter if behind else 0,
            gathered=self.root + self.layer + others,
            activations=waiting,
            layer=self.at_work(layer),
            loss=self.loss.waiting,
        )
        if self.settings.fully_sharded:
            yield self.moment(
                "scatter",
                self.gradients_of(behind + 1),
                self.reduce_scatter * self.copies,
                gathered=self.root + others,
                activations=waiting,
                layer=outside + self.still_whole(self.shape.layer),
                loss=self.loss.waiting,
            )

    def waiting(self, layers: int) -> int:
        """Bytes on the device that the first ``layers`` layers keep for their backward."""
        each = self.activations.selected
        if not self.settings.is_selective:
            each = 0 if self.offloads_inputs else self.activations.input
        checkpointed = min(layers, self.checkpointed)
        return checkpointed * each + (layers - checkpointed) * self.activations.kept

    def at_work(self, layer: int) -> int:
        """Bytes of the ``layer``-th of all layers in its backward."""
        parts = self.activations
        if layer > self.checkpointed:
            return parts.kept + parts.in_backward
        if self.settings.is_selective:
            return parts.selected + parts.in_backward_selected
        return parts.kept + parts.in_backward_again

    def still_whole(self, elements: int) -> int:
        """Bytes of whole gradients that a reduce-scatter's own copy and result do not make up for: those come when these are gone."""
        own = 4 * elements * (self.copies - 1) + 4 * elements // self.shape.shards
        return max(0, self.shape.compute * elements - own)

    def gradients_of(self, num_layers: int) -> int:
        """Bytes of gradients, once backward has left ``num_layers`` layers behind."""
        if self.settings.update_freq > 1:
            return self.held.gradients
        of_layer = self.shape.compute * self.shape.layer
        if self.settings.fully_sharded:
            of_layer = 4 * self.shape.layer // self.shape.shards
        return self.held.kept_gradients + num_layers * of_layer

    def moment(self, name: str, gradients: int, gradient_buffers: int = 0, **parts: int) -> Moment:
        """``parts``, and the states, which lie elsewhere with --cpu-offload."""
        states_here = self.held.parameters, gradients, self.held.optimizer
        if self.offloads_states:
            states_here = 0, 0, 0
        buffers = gradient_buffers + self.held.buckets
        return Moment(name, *states_here, gradient_buffers=buffers, **parts)
