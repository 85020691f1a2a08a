"""Whether FSDP2 has cut a tensor or a module, answered without importing it.

``torch.distributed.fsdp`` and ``torch.distributed.tensor`` bring 800 modules, sympy among them. A process in which nobody has
imported them has made no shard.
"""

import sys

from torch import Tensor, nn


def is_shard(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor, of which this rank holds a part."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_sharding(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was called on ``module``, which gathers its parameters when it is computed with."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)
