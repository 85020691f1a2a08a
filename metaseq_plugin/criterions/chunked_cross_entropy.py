"""fairseq's ``cross_entropy`` without the logits of the whole batch.

    fairseq-train DATA --user-dir metaseq_plugin --arch opt_125m --criterion chunked_cross_entropy …

B batch, T tokens, E word-embedding dim, V vocab. Loss, gradients and what is logged are those of
``cross_entropy``; the output projection and the loss run together in ``modules/chunked_loss.py``:
(1) find the tokens that count; (2) the model gives features (B, T, E); (3) project and compare them
chunk by chunk with the embedding (V, E), of which a tensor-parallel rank may hold a shard of the rows.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple, cast

from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.modules.chunked_loss import chunked_cross_entropy, token_losses
from metaseq_plugin.modules.vocab_shard import VocabShard


@dataclass
class ChunkedCrossEntropyConfig(CrossEntropyCriterionConfig):
    """fairseq's settings, and the size of a chunk."""

    loss_chunk_tokens: int = field(
        default=0,
        metadata={
            "help": "tokens whose logits are in memory at a time; 0: a sixteenth of the batch, "
            "but 512 to 4096"
        },
    )


@register_criterion("chunked_cross_entropy", dataclass=ChunkedCrossEntropyConfig)
class ChunkedCrossEntropyCriterion(CrossEntropyCriterion):
    """Cross entropy for models with ``output_weight``, ``vocab_shard`` and ``features_only=True``."""

    def __init__(self, task: FairseqTask, sentence_avg: bool, loss_chunk_tokens: int) -> None:
        super().__init__(task, sentence_avg)
        if loss_chunk_tokens < 0:
            raise UserError(
                f"`--loss-chunk-tokens` must be at least 0, but is {loss_chunk_tokens}. "
                "Set 0 to have it chosen."
            )
        self.chunk_tokens = loss_chunk_tokens

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """The loss, its denominator, and what fairseq logs.

        Args:
            sample: of fairseq's language-modeling datasets; ``target`` is (B, T).
            reduce: sum to () as for training; otherwise (B·T,) losses, without gradients.

        Raises:
            UserError: the model does not show its output weight and which rows of it these are.
        """
        if not (hasattr(model, "output_weight") and hasattr(model, "vocab_shard")):
            raise UserError(
                "`--criterion` must be one that the model supports, but chunked_cross_entropy needs "
                f"an OPT model and this is {type(model).__name__}. Set --criterion cross_entropy."
            )
        target = sample["target"].view(-1)  # (B·T,)
        # Padding need not be computed. Finding it makes the host wait for a GPU, so this happens
        # before the model's work is queued, and not at all where every target counts by ntokens;
        # were that number wrong, the loss would still leave padding out.
        counts = None
        if reduce and sample["ntokens"] < target.numel():
            counts = target.ne(self.padding_idx).nonzero().squeeze(1)  # (N,)

        features, _ = model(**sample["net_input"], features_only=True)
        features = features.reshape(-1, features.size(-1))  # (B·T, E)
        if counts is not None:
            features, target = features[counts], target[counts]  # (N, E), (N,)
        loss_function = chunked_cross_entropy if reduce else token_losses
        weight = cast(Tensor, model.output_weight)  # (V, E)
        shard = cast(Optional[VocabShard], model.vocab_shard)
        loss = loss_function(features, weight, target, self.padding_idx, self.chunk_tokens, shard)
        sample_size = sample["nsentences"] if self.sentence_avg else sample["ntokens"]
        return (
            loss,
            sample_size,
            {
                "loss": loss.data,
                "ntokens": sample["ntokens"],
                "nsentences": sample["nsentences"],
                "sample_size": sample_size,
            },
        )
