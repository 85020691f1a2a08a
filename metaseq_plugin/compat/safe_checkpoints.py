"""``torch.load`` reads only tensors and plain containers by default; fairseq's files hold a little more.

Checkpoints written by ``fairseq-train`` 0.12.2 pass as they are (their ``cfg`` is plain containers).
Older ones, fairseq's published models among them, hold the ``argparse.Namespace`` of their command
line or omegaconf containers. These classes are plain data, so they are put on torch's list of safe
globals, and nothing else is. The check itself (``weights_only=True``) stays on.

The rank that reads a checkpoint sends it to the others with ``torch.save`` and ``torch.load`` too, every
tensor replaced by a placeholder of fairseq's, which holds a number.
"""

import argparse
import collections
import typing
from typing import Any

import omegaconf
import torch

# What the pickle of a Namespace and of a DictConfig made from fairseq's options refers to, as
# `torch.serialization.get_unsafe_globals_in_checkpoint` lists it.
PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    omegaconf.DictConfig,
    omegaconf.ListConfig,
    omegaconf.base.ContainerMetadata,
    omegaconf.base.Metadata,
    omegaconf.nodes.AnyNode,
    collections.defaultdict,
    typing.Any,
    dict,
    list,
    tuple,
    bool,
    int,
    float,
    str,
]


def allow_plain_data(checkpoint_utils: Any) -> None:
    torch.serialization.add_safe_globals(PLAIN_DATA)


def allow_placeholders(distributed_utils: Any) -> None:
    torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])
