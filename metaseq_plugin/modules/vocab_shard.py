"""The softmax over a vocabulary whose rows lie on several ranks, for one exchange of 8 bytes a token.

n tokens, V/tp rows of the embedding on this rank, tp ranks.

Each rank knows the softmax over its own words. What it lacks is how the ranks share the probability:

    P(word) = P(word | its rank's words) · P(the rank's words)

and log P(the rank's words) is a softmax again, over the ranks' log-sum-exps. So a rank gives away, for
each token, its log-sum-exp and, if it holds the target's row, the target's log-probability among its
own words. Both terms keep full precision where the target is nearly certain, which the difference of
a large logit and a large log-sum-exp would not.
"""

import math
from typing import NamedTuple, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

from metaseq_plugin.modules.collectives import all_gather


class VocabShard(NamedTuple):
    """Which rows of the whole embedding (V, D) this rank's weight (V/tp, D) is.

    Args:
        group: the ranks that hold the rest; all have the same features and targets.
        first_row: the row of the whole embedding that is row 0 here. Ranks may hold different numbers.
    """

    group: dist.ProcessGroup
    first_row: int

    def locate(self, target: Tensor, num_rows: int) -> Tuple[Tensor, Tensor]:
        """Targets (n,) → their rows among the ``num_rows`` here, and whether they are here at all.

        Where they are not, the row is some valid one.
        """
        row = target - self.first_row
        is_here = (row >= 0) & (row < num_rows)
        return row.clamp_(0, num_rows - 1), is_here

    def share_out(
        self, log_sum_exp: Tensor, target_lprob: Tensor, is_here: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """From this rank's words to the whole vocabulary; a collective call.

        Args:
            log_sum_exp: (n, 1) fp32, of this rank's logits.
            target_lprob: (n, 1) fp32, log P(target | this rank's words) where ``is_here`` (n, 1).

        Returns:
            log P(target) and log P(this rank's words), both (n, 1); the first to the bit the same on
            all ranks, because all compute it from the same numbers in the same order.
        """
        own = torch.cat((log_sum_exp, target_lprob.masked_fill(~is_here, -math.inf)), 1)  # (n, 2)
        num_tokens, num_ranks = own.size(0), dist.get_world_size(self.group)
        gathered = own.new_empty(num_ranks * num_tokens, 2)
        all_gather(gathered, own, group=self.group)
        gathered = gathered.view(num_ranks, num_tokens, 2)
        rank_lprobs = gathered[..., 0].log_softmax(0)  # (tp, n)
        whole_lprob = (rank_lprobs + gathered[..., 1]).amax(0)  # the others' are -inf
        return whole_lprob.unsqueeze(1), rank_lprobs[dist.get_rank(self.group)].unsqueeze(1)
