"""Fine-tuning on pairs of a source and a target, with the loss on the target alone.

    fairseq-train DATA --user-dir metaseq_plugin --task opt_streaming_finetune_language_modeling \\
        --arch opt_125m --finetune-from-model opt-125m/checkpoint.pt --num-workers 2 …

    DATA/<split>/<shard>/<corpus>.jsonl[.gz|.zst]    {"src": "Translate: chat ->", "tgt": "cat"}

A document is its source, a blank, its target and ``</s>``; the model reads all of it and is asked for
the target and ``</s>``. Everything else is ``opt_streaming_language_modeling``'s. By default a document
is a block, as fine-tuning usually wants it; ``--sample-break-mode complete`` packs several into one.
ntokens counts what has a target. metaseq calls its task of this kind
``streaming_finetune_language_modeling``.
"""

from dataclasses import dataclass, field

from fairseq.tasks import register_task

from metaseq_plugin.data.binarized.token_blocks import SampleBreakMode
from metaseq_plugin.data.streaming.tokens import PairReader
from metaseq_plugin.tasks.opt_streaming_language_modeling import (
    OPTStreamingLanguageModelingConfig,
    OPTStreamingLanguageModelingTask,
)


@dataclass
class OPTStreamingFinetuneLanguageModelingConfig(OPTStreamingLanguageModelingConfig):
    """As for pretraining, but for how documents become blocks."""

    sample_break_mode: SampleBreakMode = field(
        default=SampleBreakMode.eos,
        metadata={
            "help": "eos: one document a block; complete: whole documents as fit; none: blocks of "
            "exactly --tokens-per-sample"
        },
    )


@register_task(
    "opt_streaming_finetune_language_modeling",
    dataclass=OPTStreamingFinetuneLanguageModelingConfig,
)
class OPTStreamingFinetuneLanguageModelingTask(OPTStreamingLanguageModelingTask):
    """``opt_streaming_language_modeling`` over records of "src" and "tgt"."""

    reader_class = PairReader
