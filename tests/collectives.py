"""Count what one update of ``fairseq-train`` sends: every collective, its group and its bytes.

    collectives = Collectives(tmp_path / "sent")
    train_ranks(2, …, "--max-update", UPDATE, prepare=collectives)
    collectives.update(rank=0)  ->  [Collective("all-reduce", 2, 4096, "float32"), …], in order

It sees what torch.distributed dispatches, whoever asks for it: our code, FSDP2, DDP, fairseq's trainer.

Bytes are those of the whole buffer, as it is where all ranks' parts are together: an all-gather's
output, a reduce-scatter's input, an all-reduce's tensor. Of n ranks in a ring each then sends (n-1)/n of
them for the first two, and twice as much for an all-reduce, which is one of each (``ring_bytes``).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

UPDATE = 3  # DDP orders its buckets in the first update and agrees on them in the second

KINDS = {
    "allreduce_": "all-reduce",
    "allreduce_coalesced_": "all-reduce",
    "_allgather_base_": "all-gather",
    "allgather_": "all-gather",
    "allgather_into_tensor_coalesced_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
    "reduce_scatter_": "reduce-scatter",
    "reduce_scatter_tensor_coalesced_": "reduce-scatter",
}


class Collective(NamedTuple):
    """One call; a kind that no layout should need keeps torch's own name for it."""

    kind: str
    num_ranks: int
    num_bytes: int
    dtype: str

    @property
    def ring_bytes(self) -> float:
        """What one rank sends where the group is a ring."""
        passes = 2 if self.kind == "all-reduce" else 1
        return passes * self.num_bytes * (self.num_ranks - 1) / self.num_ranks

    @property
    def is_trainers(self) -> bool:
        """Whether it is fairseq's: its statistics and checks are fp64, and nothing else is."""
        return self.dtype == "float64"


class Counter(TorchDispatchMode):
    """Lists the collectives that are called inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Collective] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d":
            self.seen.append(collective_of(func, args))
        return func(*args, **(kwargs or {}))


def collective_of(func: Any, args: tuple) -> Collective:
    """What the call ``func(*args)`` of an operator of torch's c10d sends."""
    name = func.overloadpacket.__name__
    sides = [[t for t in tree_leaves(arg) if isinstance(t, torch.Tensor)] for arg in args]
    whole = max(sides, key=lambda tensors: sum(t.nbytes for t in tensors))
    (group,) = [arg for arg in args if is_group(arg)]
    return Collective(
        KINDS.get(name, name),
        dist.ProcessGroup.unbox(group).size(),
        sum(t.nbytes for t in whole),
        str(whole[0].dtype).removeprefix("torch."),
    )


def is_group(argument: Any) -> bool:
    is_object = isinstance(argument, torch.ScriptObject)
    return is_object and argument._type().name() == "ProcessGroup"


class Collectives:
    """Writes down what every rank sends in update ``UPDATE``, and the batches it computes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _file(self, rank: int) -> Path:
        return self.path.with_name(f"{self.path.name}-rank{rank}.json")

    def __call__(self, rank: int = 0) -> None:
        from fairseq.trainer import Trainer

        train_step = Trainer.train_step

        def counting(trainer: Any, samples: list, raise_oom: bool = False) -> Any:
            if trainer.get_num_updates() != UPDATE - 1:
                return train_step(trainer, samples, raise_oom)
            with Counter() as counter:
                output = train_step(trainer, samples, raise_oom)
            batches = [list(sample["target"].shape) for sample in samples]
            self._file(rank).write_text(json.dumps({"sent": counter.seen, "batches": batches}))
            return output

        Trainer.train_step = counting

    def update(self, rank: int = 0) -> list[Collective]:
        """The collectives of the update, in their order."""
        return [Collective(*row) for row in json.loads(self._file(rank).read_text())["sent"]]

    def batches(self, rank: int = 0) -> list[list[int]]:
        """[B, T] of each micro-batch."""
        return json.loads(self._file(rank).read_text())["batches"]
