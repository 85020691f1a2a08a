"""What an unpickled file may be made of, said before anyone walks through it.

A file that runs nothing can still be a trap for whoever reads on: containers that hold themselves or each other
many times over, which no copy ends; tensors of one element that claim 10¹²; views of which each claims the whole
file; classes that rebuild on use. ``check`` goes through everything once, in time that grows with the file.
"""

import argparse
from collections import OrderedDict, defaultdict
from typing import Any, Dict, Iterable, Tuple

import torch
from omegaconf.base import Node
from torch import Tensor, nn

from metaseq_plugin.compat.errors import UserError

MAX_DEPTH = 50
MAX_VALUES = 10**7  # of a file written out as a tree, each value as often as it is held
MAX_BITS = 128  # of a whole number: a generator's seed has 64 or 128
# A tensor may lie in a file once and be in it under several names: tied weights, one in four places at most.
MAX_SHARING = 4
CONTAINERS = (dict, OrderedDict, defaultdict, list, tuple, set, torch.Size, argparse.Namespace)
VALUES = (bool, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)
AGAIN = "Use another file, or copy this one again."


def check(state: Any, source: Any, num_bytes: int, trusted: bool = False) -> None:
    """Refuse what no reader should walk through.

    Args:
        num_bytes: the size of the file.
        trusted: other classes may be in it, and are not looked into.

    Raises:
        UserError: naming the file, and what is wrong with it.
    """
    walk = _Walk(source, trusted)
    walk.enter(state, 0)
    if walk.tensor_bytes > MAX_SHARING * num_bytes:
        raise UserError(
            f"{source} must hold its tensors, but they claim {walk.tensor_bytes:,} bytes and it has "
            f"{num_bytes:,}. {AGAIN}"
        )


class _Walk:
    """One way through a file; ``seen`` has the height of a container, and its values as a tree."""

    def __init__(self, source: Any, trusted: bool) -> None:
        self.source, self.trusted = source, trusted
        self.seen: Dict[int, Tuple[int, int]] = {}
        self.tensor_bytes = 0

    def enter(self, value: Any, depth: int) -> Tuple[int, int]:
        """(height, values) of ``value``, which lies ``depth`` containers deep."""
        key = id(value)
        if key not in self.seen:
            if depth > MAX_DEPTH:
                raise self.nested()
            height, values = 0, 1
            for held in self.held_by(value):
                above, more = self.enter(held, depth + 1)
                height, values = max(height, above + 1), values + more
            self.seen[key] = height, values
        height, values = self.seen[key]
        if depth + height > MAX_DEPTH or values > MAX_VALUES:
            raise self.nested()
        return height, values

    def nested(self) -> UserError:
        return UserError(
            f"{self.source} must hold plain values, at most {MAX_DEPTH} deep and {MAX_VALUES:,} in number, but "
            f"its containers hold more, or each other. {AGAIN}"
        )

    def held_by(self, value: Any) -> Iterable[Any]:
        """What ``value`` holds; nothing for a plain value."""
        if isinstance(value, Tensor):
            self.check_tensor(value)
            return ()
        if isinstance(
            value, Node
        ):  # omegaconf's: the fields themselves, for its properties resolve
            content = vars(value).get("_content", vars(value).get("_val"))
            return (content,)
        if isinstance(value, argparse.Namespace):
            return vars(value).values()
        if type(value) in CONTAINERS:
            return (*value.keys(), *value.values()) if isinstance(value, dict) else value
        if type(value) is int:
            if value.bit_length() > MAX_BITS:
                raise UserError(
                    f"{self.source} must hold numbers of at most {MAX_BITS} bits, but one has "
                    f"{value.bit_length():,}. {AGAIN}"
                )
        elif not isinstance(value, VALUES) and not self.trusted:
            raise UserError(
                f"{self.source} must hold tensors and plain values, but holds one of the class "
                f"{type(value).__name__}. {AGAIN}"
            )
        return ()

    def check_tensor(self, tensor: Tensor) -> None:
        """Refuse what is no ordinary tensor in the memory of the file."""
        is_ordinary = (
            type(tensor) in (Tensor, nn.Parameter)
            and tensor.layout == torch.strided
            and tensor.device.type == "cpu"
            and not tensor.is_quantized
        )
        claims = tensor.numel() * tensor.element_size() if is_ordinary else 0
        if not is_ordinary or claims > tensor.untyped_storage().nbytes():
            raise UserError(
                f"{self.source} must hold ordinary tensors with all of their elements, but holds one of shape "
                f"{tuple(tensor.shape)} that is none. {AGAIN}"
            )
        self.tensor_bytes += claims
