"""Language modeling on no data at all, to time and measure any size and layout.

    fairseq-train --user-dir metaseq_plugin --task opt_dummy_lm --arch opt_125m --batch-size 8 \\
        --criterion chunked_cross_entropy --optimizer adamw --lr 6e-4 --max-update 50 \\
        --disable-validation --no-save …

Every sample is the same batch of random tokens, drawn once from --seed; nothing is read. fairseq's own
``dummy_lm`` counts up through the dictionary, and knows neither the sharded nor the cut model.
"""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.benchmark.dummy_dataset import DummyDataset
from fairseq.data import Dictionary
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingTask
from omegaconf import II
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.skips import Skips
from metaseq_plugin.ledger.options import LedgerOptions
from metaseq_plugin.tasks.opt_language_modeling import OPTLanguageModelingTask, all_skips
from metaseq_plugin.tasks.opt_streaming_language_modeling import blocks_a_batch
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_MULTIPLE, numbered_dictionary


@dataclass
class OPTDummyLMConfig(LedgerOptions):
    """The shape of the data that is not there."""

    tokens_per_sample: int = field(
        default=2048, metadata={"help": "tokens of every sample; OPT's is 2048"}
    )
    dict_size: int = field(
        default=50272,
        metadata={"help": "types of the dictionary, filled up to a multiple of 8"},
    )
    dataset_size: int = field(default=100_000, metadata={"help": "samples of an epoch"})
    batch_size: Optional[int] = II("dataset.batch_size")
    max_tokens: Optional[int] = II("dataset.max_tokens")
    seed: int = II("common.seed")


def check_config(cfg: OPTDummyLMConfig) -> None:
    """Refuse shapes that no batch can have, all problems in one message."""
    least = {"tokens_per_sample": 1, "dict_size": len(Dictionary()) + 1, "dataset_size": 1}
    problems = [
        f"`--{name.replace('_', '-')}` must be at least {number}, but is {cfg[name]}. Set more."
        for name, number in least.items()
        if cfg[name] < number
    ]
    if problems:
        raise UserError(*problems)


@register_task("opt_dummy_lm", dataclass=OPTDummyLMConfig)
class OPTDummyLMTask(OPTLanguageModelingTask):
    """``OPTLanguageModelingTask`` whose every batch is one of random tokens."""

    @classmethod
    def setup_task(cls, cfg: OPTDummyLMConfig, **kwargs: Any) -> "OPTDummyLMTask":
        """Check ``cfg`` and make up a dictionary."""
        check_config(cfg)
        dictionary = numbered_dictionary(cfg.dict_size)
        dictionary.pad_to_multiple_(DICTIONARY_MULTIPLE)
        return cls(cfg, dictionary)

    def skips(self) -> Skips:
        """What a run went back over; its batches are all the same."""
        return all_skips(None)

    def last_epoch_of(self, epoch: int) -> int:
        """0: there is always another one."""
        return 0

    def build_bpe(self, args: Any) -> Any:
        """fairseq's ``--bpe``: a dictionary that is made up has no tokenizer."""
        return LanguageModelingTask.build_bpe(self, args)

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any
    ) -> DummyDataset:
        """The batch of ``split``, as often as ``--dataset-size`` says."""
        cfg = self.args
        rows = blocks_a_batch(cfg.max_tokens, cfg.batch_size, cfg.tokens_per_sample)
        generator = torch.Generator().manual_seed(cfg.seed)
        tokens: Tensor = torch.randint(
            len(Dictionary()), len(self.dictionary), (rows, cfg.tokens_per_sample + 1),
            generator=generator,
        )  # fmt: skip
        batch = {
            "id": torch.arange(rows),
            "nsentences": rows,
            "ntokens": rows * cfg.tokens_per_sample,
            "net_input": {
                "src_tokens": tokens[:, :-1].contiguous(),
                "src_lengths": torch.full((rows,), cfg.tokens_per_sample),
            },
            "target": tokens[:, 1:].contiguous(),
        }
        self.datasets[split] = DummyDataset(batch, cfg.dataset_size, cfg.tokens_per_sample)
        return self.datasets[split]
