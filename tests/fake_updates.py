"""An update of any size on any layout as one rank makes it, without memory: fake tensors, fake ranks, a real scale.

    seen = on_ranks([0], layout, peak_of_update, "175b", settings)      # bytes

The model is cut, sharded, run and updated by the code that trains. PyTorch's FakeTensorMode gives tensors that have
shapes and storages but no bytes, its fake process group collectives that return at once. ``Storages`` counts the storages
that are alive, as an allocator would. On a GPU other kernels of attention run: they are called by name.
"""

import weakref
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Iterator, Optional
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metaseq_plugin.criterions import chunked_cross_entropy as criterions
from metaseq_plugin.distributed import fully_sharded, tensor_parallel
from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.layout.grid import Grid
from metaseq_plugin.layout.held import give_memory, local
from metaseq_plugin.models.opt import OPTDecoder, OPTLanguageModel
from metaseq_plugin.modules import chunked_loss, dropout
from metaseq_plugin.optim.adamw import Fp32StateAdamW
from metaseq_plugin.sizes import OPTSize
from tests.opt_models import PAD, config, dictionary

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Storages(TorchDispatchMode):
    """Bytes of all storages that operations under it have made and that are alive, now and at most.

    Attributes:
        peaks: name of a moment (``at``) -> the most bytes since the moment before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peaks: dict[str, int] = {}
        self.moment = "start"
        self.alive: dict[int, tuple[Any, int]] = {}
        self.resize_: Any = torch.UntypedStorage.resize_

    def at(self, moment: str) -> None:
        """What follows is part of ``moment``."""
        self.moment = moment

    def __enter__(self) -> "Storages":
        tracker, resize_ = self, self.resize_

        def resized(storage: Any, size: int) -> Any:
            result = resize_(storage, size)
            if id(storage) in tracker.alive:
                tracker._count(storage)
            return result

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self.resize_  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Optional[Any] = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:  # no value is there to be asked for
            return 0
        if _sums_gradients(func):  # in place, as for tensors that no mode looks at
            return args[0].add_(args[1])
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and not value.is_meta:
                self._count(local(value).untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key = id(storage)
        known = self.alive.get(key)
        reference = weakref.ref(storage, lambda _: self._forget(key)) if known is None else known[0]
        self.now += storage.nbytes() - (0 if known is None else known[1])
        self.alive[key] = reference, storage.nbytes()
        self.peaks[self.moment] = max(self.peaks.get(self.moment, 0), self.now)

    def _forget(self, key: int) -> None:
        self.now -= self.alive.pop(key)[1]


def _sums_gradients(func: Any) -> bool:
    """Whether autograd's engine adds what a tensor's second use contributes, and not recomputation an activation."""
    is_backward = torch._C._current_graph_task_id() != -1
    return is_backward and not torch.is_grad_enabled() and func is torch.ops.aten.add.Tensor


def _gpu_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout_p: float, is_causal: bool
) -> Tensor:
    """What ``scaled_dot_product_attention`` calls on a GPU: flash attention of 16 bits, else the efficient one."""
    aten: Any = torch.ops.aten
    if query.element_size() == 2:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal)[0]
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, True, dropout_p, is_causal
    )[0]


def _gpu_softmax(logits: Tensor, target: Tensor, *_: Any) -> Tensor:
    """What the loss's softmax has beside 16-bit logits, which its kernel overwrites, and as much as it has in fp32."""
    return logits.new_empty(logits.size(0), 1, dtype=torch.float32)


def _gpu_add_product(total: Tensor, *_: Any, beta: float) -> None:
    """The loss's products of 16 bits, summed in fp32, which a GPU takes as they are."""


def _gpu_dropout(x: Tensor, p: float) -> Tensor:
    return torch.native_dropout(x, p, True)[0]


@contextmanager
def kernels_of(on_gpu: bool) -> Iterator[None]:
    """Attention, dropout and the loss as on a GPU, or as they are."""
    if not on_gpu:
        yield
        return
    with (
        patch.object(F, "scaled_dot_product_attention", _gpu_attention),
        patch.object(dropout, "is_by_words", lambda x: False),
        patch.object(F, "dropout", _gpu_dropout),
        patch.object(chunked_loss, "softmax_", _gpu_softmax),
        patch.object(chunked_loss, "_add_product", _gpu_add_product),
    ):
        yield


def _model(size: OPTSize, grid: Grid, settings: MemorySettings) -> fully_sharded.FullyShardedModel:
    cfg = config(
        decoder_layers=size.layers,
        decoder_embed_dim=size.embed_dim,
        decoder_attention_heads=size.heads,
        decoder_word_embed_dim=size.word_embed_dim,
        decoder_post_norm=size.post_norm,
        decoder_max_positions=settings.position_rows - 2,
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        checkpoint_activations=settings.checkpoint_activations,
        checkpoint_layers=settings.checkpoint_layers,
        recompute=settings.recompute,
        sequence_parallel=settings.sequence_parallel,
    )
    with torch.device("meta"):
        model = OPTLanguageModel(OPTDecoder(cfg, dictionary(settings.vocab_size)))
    if grid.model_parallel_size > 1:
        tensor_parallel.cut(model, grid, settings.sequence_parallel)
    dtype = DTYPES[settings.precision]
    fully_sharded.cut_shards(model, grid, dtype, settings.reshard_after_forward)
    give_memory(model, "cpu")
    return fully_sharded.FullyShardedModel(model, grid, use_sharded_state=True)


def peaks_of_update(grid: Grid, size: OPTSize, settings: MemorySettings) -> dict[str, int]:
    """ "forward", "loss", "backward", "update" -> the most bytes that this rank holds meanwhile, from the second update on."""
    torch.manual_seed(1)  # of what is not fake: checkpointing keeps the generator's state
    storages = Storages()
    with FakeTensorMode(), storages, kernels_of(settings.on_gpu):
        model = _model(size, grid, settings).train()
        optimizer = Fp32StateAdamW(list(model.parameters()), fused=True)
        task: Any = SimpleNamespace(target_dictionary=SimpleNamespace(pad=lambda: PAD))
        criterion = criterions.ChunkedCrossEntropyCriterion(task, False, settings.loss_chunk_tokens)
        tokens = torch.full((settings.batch_size, settings.tokens_per_sample), PAD + 1)
        targets = tokens.clone()
        sample = {
            "net_input": {"src_tokens": tokens, "src_lengths": None},
            "target": targets,
            "ntokens": tokens.numel(),
            "nsentences": settings.batch_size,
        }
        loss_function = criterions.chunked_cross_entropy

        def loss_of(*args: Any) -> Tensor:
            storages.at("loss")
            return loss_function(*args)

        with patch.object(criterions, "chunked_cross_entropy", loss_of):
            for _ in range(2):
                storages.peaks.clear()
                storages.at("forward")
                loss, _, logged = criterion(model, sample)
                storages.at("backward")
                loss.backward()
                model.all_reduce_grads()
                storages.at("update")
                optimizer.step()
                optimizer.zero_grad()
                del loss, logged
                storages.peaks["between"] = storages.now - tokens.nbytes - targets.nbytes
    return storages.peaks
