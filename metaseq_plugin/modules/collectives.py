"""Collectives of one tensor under whichever name the installed PyTorch has for them.

2.13 renamed them and warns at the old names; 2.8 to 2.12 know only those.
"""

import torch.distributed as dist

_HAS_NEW_NAMES = hasattr(dist, "all_gather_single")

# (output, input, group): output is all ranks' inputs in a row
all_gather = dist.all_gather_single if _HAS_NEW_NAMES else dist.all_gather_into_tensor
# (output, input, group): output is this rank's part of the sum of all ranks' inputs
reduce_scatter = dist.reduce_scatter_single if _HAS_NEW_NAMES else dist.reduce_scatter_tensor
