"""The numbers of a few updates in a row, as one line of updates.jsonl.

What fairseq has reduced is kept as it is, and read once for the whole window, in one transfer from the device: the
update that is last in it was waited for before, when its loss was read (compat/late_statistics.py).
"""

import math
from typing import Any, Dict, List, Optional

import torch

from metaseq_plugin.compat.recorded_run import Sums
from metaseq_plugin.ledger.tally import ACCOUNTS
from metaseq_plugin.storage.json_lines import Row

NEVER_IN = ("starting",)  # accounts that stand still while updates are made


class Window:
    """The updates since the last line, and the time.

    Args:
        clip_norm: of the run; 0: gradients are not clipped.
        seconds, accounts: of the clock, when it begins.
    """

    def __init__(self, clip_norm: float, seconds: float, accounts: Dict[str, float]) -> None:
        self.clip_norm = clip_norm
        self._seconds, self._accounts = seconds, accounts
        self._loss: List[Any] = []
        self._ntokens: List[Any] = []
        self._sample_sizes: List[Any] = []
        self._norms: List[Any] = []

    def add(self, sums: Sums) -> None:
        self._loss += [log.get("loss", 0.0) for log in sums.logged]
        self._ntokens += [log.get("ntokens", 0) for log in sums.logged]
        self._sample_sizes.append(sums.sample_size)
        self._norms.append(sums.gnorm)

    def __len__(self) -> int:
        return len(self._norms)

    def row(
        self, lr: float, loss_scale: Optional[float], seconds: float, accounts: Dict[str, float]
    ) -> Row:
        """The line, all but who, when and where; the arguments are those of its end."""
        loss, ntokens, sample_sizes, norms = read(
            self._loss, self._ntokens, self._sample_sizes, self._norms
        )
        sample_size = sum(sample_sizes)
        clipped = sum(norm > self.clip_norm for norm in norms)
        scale = {} if loss_scale is None else {"loss_scale": loss_scale}
        clip = {"clip": 100 * clipped / len(norms)} if self.clip_norm > 0 else {}
        return {
            "updates": len(self),
            "ntokens": int(sum(ntokens)),
            # Nats of the whole window over its tokens; as fairseq logs it, to the base of 2.
            "loss": sum(loss) / sample_size / math.log(2) if sample_size else None,
            "gnorm": sum(norms) / len(norms),
            **clip,
            "lr": lr,
            **scale,
            "seconds": seconds - self._seconds,
            **{
                name: accounts[name] - self._accounts[name]
                for name in ACCOUNTS
                if name not in NEVER_IN
            },
        }


def read(*columns: List[Any]) -> List[List[float]]:
    """Numbers, and tensors of one element, as numbers; tensors of one device and type are read together."""
    values = [value for column in columns for value in column]
    alike: Dict[Any, List[int]] = {}
    for place, value in enumerate(values):
        if torch.is_tensor(value):
            alike.setdefault((value.device, value.dtype), []).append(place)
    for places in alike.values():
        found = torch.stack([values[place].detach().reshape(()) for place in places]).tolist()
        for place, number in zip(places, found, strict=True):
            values[place] = number
    numbers = iter(values)
    return [[float(next(numbers)) for _ in column] for column in columns]
