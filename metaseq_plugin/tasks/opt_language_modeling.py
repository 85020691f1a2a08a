"""Language modeling over fairseq's binarised data, in blocks, with OPT's document separator.

    metaseq prepare corpus.jsonl --destdir data
    fairseq-train data --user-dir metaseq_plugin --task opt_language_modeling --arch opt_125m …

fairseq's own task supplies batching, evaluation and the inference dataset; this one differs in
(1) how documents become blocks (``data/binarized/token_blocks.py``), (2) the generator that
``fairseq-interactive`` and ``fairseq-generate`` use (``generation/``), and (3) checks at the door.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch
from fairseq import utils
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingTask
from omegaconf import II
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.token_blocks import (
    BlockBatches,
    SampleBreakMode,
    TokenBlocks,
    TokenStream,
    find_split,
)
from metaseq_plugin.distributed.host_memory import give_back_freed_memory, keep_freed_memory
from metaseq_plugin.distributed.option_checks import check_vocabulary
from metaseq_plugin.distributed.run import current
from metaseq_plugin.generation.fairseq_generator import FairseqGenerator
from metaseq_plugin.tokenizers.dictionary import load_dictionary


@dataclass
class OPTLanguageModelingConfig(FairseqDataclass):
    """Where the data lies and how it is cut."""

    data: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder with dict.txt and binarised splits; several, joined by ':', take turns by epoch"
        },
    )
    tokens_per_sample: int = field(
        default=2048, metadata={"help": "longest block in tokens; OPT's is 2048"}
    )
    sample_break_mode: SampleBreakMode = field(
        default=SampleBreakMode.none,
        metadata={
            "help": "none: blocks of exactly --tokens-per-sample; complete: whole documents as fit; "
            "eos: one document a block"
        },
    )
    skip_damaged_checkpoints: bool = field(
        default=False,
        metadata={
            "help": "where the newest checkpoint of --save-dir is damaged, resume from the one before it"
        },
    )
    no_save_on_signal: bool = field(
        default=False,
        metadata={
            "help": "end at once on SIGINT (Ctrl-C) and SIGTERM, instead of after the update, with a checkpoint"
        },
    )
    seed: int = II("common.seed")


def check_config(cfg: OPTLanguageModelingConfig) -> None:
    """Refuse a data folder or block size that no run can use, in one sentence each."""
    if not cfg.data:
        raise UserError("`DATA` must name a folder with dict.txt, but is missing. Give it first.")
    for folder in utils.split_paths(cfg.data):
        if not Path(folder).is_dir():
            raise UserError(
                f"`DATA` must be a folder, but {folder} is not. Make it with `metaseq prepare`."
            )
    if cfg.tokens_per_sample < 1:
        raise UserError(
            f"`--tokens-per-sample` must be at least 1, but is {cfg.tokens_per_sample}. OPT's is 2048."
        )


@register_task("opt_language_modeling", dataclass=OPTLanguageModelingConfig)
class OPTLanguageModelingTask(LanguageModelingTask):
    """fairseq's language-modeling task over ``TokenBlocks``; ``targets`` is always the next token."""

    longest_input: Optional[int] = None  # in tokens; known once a model is built

    @classmethod
    def setup_task(cls, cfg: OPTLanguageModelingConfig, **kwargs: Any) -> "OPTLanguageModelingTask":
        """Check ``cfg`` and read the dictionary."""
        check_config(cfg)
        return cls(cfg, load_dictionary(utils.split_paths(cfg.data)[0]))

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> torch.nn.Module:
        """Build the model; its longest input must hold a block."""
        if from_checkpoint:
            if "compile" in cfg:
                cfg.compile = False  # --compile is for training; generation meets ever new lengths
            model = super().build_model(cfg, from_checkpoint)
            self.longest_input = model.max_positions()
            return model
        run = current()
        if not torch.cuda.is_available():
            give_back_freed_memory() if run.is_fully_sharded else keep_freed_memory()
        check_vocabulary(len(self.dictionary), run.grid.model_parallel_size)
        with run.building():
            model = super().build_model(cfg)
        run.distribute(model, cfg.sequence_parallel)
        self.longest_input = model.max_positions()
        if self.args.tokens_per_sample > self.longest_input:
            raise UserError(
                f"`--tokens-per-sample` must be at most `--decoder-max-positions` "
                f"({self.longest_input}), but is {self.args.tokens_per_sample}. Set either."
            )
        return model

    @property
    def block_size(self) -> int:
        """In tokens; smaller than asked for where the model was trained on shorter blocks."""
        asked = int(self.args.tokens_per_sample)
        return asked if self.longest_input is None else min(asked, self.longest_input)

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any
    ) -> BlockBatches:
        """Cut ``split`` into blocks; with several data folders, epoch decides which."""
        folders = utils.split_paths(self.args.data)
        folder = folders[(epoch - 1) % len(folders)]
        blocks = TokenBlocks(
            TokenStream(find_split(folder, split, combine)),
            self.block_size,
            self.args.sample_break_mode,
            self.dictionary.eos(),
        )
        blocks.check_vocabulary(len(self.dictionary), folder)
        self.datasets[split] = BlockBatches(
            dataset=blocks,
            sizes=blocks.sizes,
            src_vocab=self.dictionary,
            tgt_vocab=self.dictionary,
            add_eos_for_other_targets=False,
            shuffle=True,
            targets=self.targets,
        )
        return self.datasets[split]

    def build_dataset_for_inference(
        self, src_tokens: List[Tensor], src_lengths: List[int], **kwargs: Any
    ) -> Any:
        """Prompts as fairseq hands them, ``</s>`` moved from their end to their beginning."""
        for number, length in enumerate(src_lengths):
            if self.longest_input is not None and length > self.longest_input:
                raise UserError(
                    f"A prompt must have at most {self.longest_input} tokens with its leading "
                    f"</s>, but prompt {number} has {int(length)}. Shorten it."
                )
        return super().build_dataset_for_inference(src_tokens, src_lengths, **kwargs)

    def build_generator(
        self,
        models: Sequence[Any],
        args: Any,
        seq_gen_cls: Optional[type] = None,
        extra_gen_cls_kwargs: Optional[Dict[str, Any]] = None,
        prefix_allowed_tokens_fn: Optional[Any] = None,
    ) -> Any:
        """Our generator with its cache; fairseq's scorer for ``--score-reference``."""
        if seq_gen_cls is not None or prefix_allowed_tokens_fn is not None or args.score_reference:
            return super().build_generator(
                models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn
            )
        # fairseq's commands seed torch with --seed, and hand only the generation options on.
        seed = None if args.no_seed_provided else torch.initial_seed()
        return FairseqGenerator(models, self.target_dictionary, args, seed)

    def inference_step(
        self,
        generator: Any,
        models: Sequence[Any],
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
    ) -> List[List[Dict[str, Tensor]]]:
        """Hypotheses per row of ``sample``, best first."""
        if isinstance(generator, FairseqGenerator):
            return generator.generate(sample, prefix_tokens)
        return super().inference_step(generator, models, sample, prefix_tokens, constraints)

    def state_dict(self) -> Dict[str, Any]:
        """Nothing of the task needs saving: blocks follow from the data and the settings."""
        return {}
