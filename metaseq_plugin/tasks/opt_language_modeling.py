"""Language modeling over fairseq's binarised data, in blocks, with OPT's document separator.

    metaseq prepare corpus.jsonl --destdir data
    fairseq-train data --user-dir metaseq_plugin --task opt_language_modeling --arch opt_125m …

fairseq's own task supplies batching, evaluation and the inference dataset; this one differs in
(1) how documents become blocks (``data/binarized/token_blocks.py``), (2) the generator that
``fairseq-interactive`` and ``fairseq-generate`` use (``generation/``), and (3) checks at the door.
"""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from fairseq import utils
from fairseq.data import FairseqDataset
from fairseq.data.iterators import EpochBatchIterating
from fairseq.logging import metrics
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingTask
from omegaconf import II
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.watched_updates import watcher
from metaseq_plugin.data.binarized.epochs import BlockEpochs, Making
from metaseq_plugin.data.binarized.token_blocks import (
    BlockBatches,
    SampleBreakMode,
    TokenBlocks,
    TokenStream,
    find_split,
)
from metaseq_plugin.data.skips import Skips, parse_skips, past_windows
from metaseq_plugin.distributed.host_memory import give_back_freed_memory, keep_freed_memory
from metaseq_plugin.distributed.option_checks import check_vocabulary
from metaseq_plugin.distributed.run import current
from metaseq_plugin.formats.data_folder import data_folder_at
from metaseq_plugin.generation.fairseq_generator import FairseqGenerator
from metaseq_plugin.layout.held import give_memory
from metaseq_plugin.ledger.options import LedgerOptions
from metaseq_plugin.sizes import ARCH, is_opt
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE, load_dictionary
from metaseq_plugin.tokenizers.fairseq_bpe import SymbolEncoder
from metaseq_plugin.tokenizers.open import for_prompts

logger = logging.getLogger(__name__)


@dataclass
class OPTLanguageModelingConfig(LedgerOptions):
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
        metadata={"help": "resume from the checkpoint before the newest where that is damaged"},
    )
    no_save_on_signal: bool = field(
        default=False,
        metadata={
            "help": "end at once on SIGINT (Ctrl-C) and SIGTERM, instead of after the update, with a checkpoint"
        },
    )
    skip_batches: Optional[str] = field(
        default=None,
        metadata={
            "help": "go past data: 100-200,160 is that of 101 updates before update 100, and of one "
            "before update 160"
        },
    )
    max_epoch: int = II("optimization.max_epoch")
    seed: int = II("common.seed")
    path: Optional[str] = II("common_eval.path")


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
            f"`--tokens-per-sample` must be at least 1, but is {cfg.tokens_per_sample}. OPT's is 2048; "
            "with fairseq-eval-lm it must be above --context-window, which is taken off it."
        )
    parse_skips(cfg.skip_batches)


def updates_done() -> int:
    """How many updates fairseq's trainer has made: its own number, which it logs at each.

    Not by ``metrics.get_meter``: after a checkpoint is loaded, that looks where nothing is logged.
    """
    meters = [found.get("num_updates") for found in metrics.get_active_aggregators()]
    return next((int(meter.val) for meter in meters if meter is not None), 0)


def all_skips(asked: Optional[str]) -> Skips:
    """What the run goes past: what --skip-batches asks, and what it went back over (``ledger/watch.py``)."""
    watch = watcher()
    return Skips(past_windows(parse_skips(asked), () if watch is None else watch.windows))


def folders_of(cfg: OPTLanguageModelingConfig) -> Iterator[Path]:
    """Where a command finds dictionary and tokenizer: in DATA, else where the model at --path has them."""
    yield Path(utils.split_paths(cfg.data)[0])
    if cfg.path:
        found = data_folder_at(Path(utils.split_paths(cfg.path)[0]))
        yield from () if found is None else (found,)


@register_task("opt_language_modeling", dataclass=OPTLanguageModelingConfig)
class OPTLanguageModelingTask(LanguageModelingTask):
    """fairseq's language-modeling task over ``TokenBlocks``; ``targets`` is always the next token."""

    longest_input: Optional[int] = None  # in tokens; known once a model is built
    block_epochs: Optional[BlockEpochs] = None  # of training
    counted_in = "blocks"  # what the length of a dataset counts

    @classmethod
    def setup_task(cls, cfg: OPTLanguageModelingConfig, **kwargs: Any) -> "OPTLanguageModelingTask":
        """Check ``cfg`` and read the dictionary."""
        check_config(cfg)
        holders = (folder for folder in folders_of(cfg) if (folder / DICTIONARY_FILE).is_file())
        return cls(cfg, load_dictionary(next(holders, utils.split_paths(cfg.data)[0])))

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> torch.nn.Module:
        """Build the model; its longest input must hold a block.

        Raises:
            UserError: of a checkpoint, another model than an OPT, whose options could run anything.
        """
        if from_checkpoint:
            if not is_opt(cfg.get("_name")):
                raise UserError(
                    f"`--path` must name a checkpoint of --arch {ARCH} or {ARCH}_… with this task, but it is of "
                    f"{cfg.get('_name') or 'an unknown model'}. Set the --task that it was trained with."
                )
            if "compile" in cfg:
                cfg.compile = False  # --compile is for training; generation meets ever new lengths
            with torch.device("meta"):  # the checkpoint has all its values: none are drawn
                model = super().build_model(cfg, from_checkpoint)
            give_memory(model, "cpu")
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
        stream = TokenStream(find_split(folder, split, combine))
        self.datasets[split] = self.cut(stream, self.block_size)
        self.datasets[split].dataset.check_vocabulary(len(self.dictionary), folder)
        return self.datasets[split]

    def cut(self, stream: TokenStream, block_size: int) -> BlockBatches:
        """The blocks of ``stream``, of at most ``block_size`` tokens."""
        blocks = TokenBlocks(stream, block_size, self.args.sample_break_mode, self.dictionary.eos())
        return BlockBatches(
            dataset=blocks,
            sizes=blocks.sizes,
            src_vocab=self.dictionary,
            tgt_vocab=self.dictionary,
            add_eos_for_other_targets=False,
            shuffle=True,
            targets=self.targets,
        )

    def eval_lm_dataloader(
        self, dataset: Any, context_window: int = 0, num_shards: int = 1, num_workers: int = 1,
        **asked: Any,
    ) -> Any:  # fmt: skip
        """The batches of ``fairseq-eval-lm``; a context and a block together are as long as the model reads.

        Args:
            context_window: how many tokens before a block are read with it, and not scored.

        Raises:
            UserError: a context that leaves no room for a block, or that other ranks have.
        """
        if context_window > 0:
            assert self.longest_input is not None, "the model is built before the data are read"
            if context_window >= self.longest_input:
                raise UserError(
                    f"`--context-window` must be below `--decoder-max-positions` ({self.longest_input}), "
                    f"but is {context_window}. Set {self.longest_input // 2}, say."
                )
            if num_shards > 1:
                raise UserError(
                    f"`--context-window` must be 0 where {num_shards} shards or ranks share the blocks, "
                    f"but is {context_window}. Use one."
                )
            block_size = min(self.block_size, self.longest_input - context_window)
            dataset = self.cut(dataset.dataset.stream, block_size)
            # A block's context is what the same worker read before.
            num_workers = min(num_workers, 1)
        return super().eval_lm_dataloader(
            dataset, context_window=context_window, num_shards=num_shards, num_workers=num_workers,
            **asked,
        )  # fmt: skip

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """As fairseq's, of training and validation; every rank is given the sums of all.

        Raises:
            UserError: a loss that is NaN or infinite. (Updates that fp16 skips are not reported.)
        """
        loss = float(sum(log.get("loss", 0) for log in logging_outputs))
        if not math.isfinite(loss):
            raise UserError(
                f"The loss must be finite, but is {loss}. With --fp16, set --bf16 or leave it out; else lower "
                "--lr and go on from an earlier checkpoint, for the weights have become too large."
            )
        super().reduce_metrics(logging_outputs, criterion)

    def get_batch_iterator(self, dataset: FairseqDataset, **asked: Any) -> EpochBatchIterating:
        """fairseq's, but for training epochs that a run under other settings goes on with."""
        # fairseq says this only where it will train.
        if "update_epoch_batch_itr" in asked:
            return self.epochs_of_blocks(dataset, **asked)
        return super().get_batch_iterator(dataset, **asked)

    def epochs_of_blocks(
        self,
        dataset: FairseqDataset,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        max_positions: Any = None,
        ignore_invalid_inputs: bool = False,
        required_batch_size_multiple: int = 1,
        seed: int = 1,
        num_shards: int = 1,
        epoch: int = 1,
        data_buffer_size: int = 0,
        disable_iterator_cache: bool = False,
        grouped_shuffling: bool = False,
        update_epoch_batch_itr: bool = False,
        **others: Any,
    ) -> BlockEpochs:
        """``get_batch_iterator`` for training; the same object as long as nothing differs that it is made of."""
        making = Making(
            seed, max_tokens, max_sentences, required_batch_size_multiple, max_positions,
            num_shards if grouped_shuffling else 1,
        )  # fmt: skip
        held = self.block_epochs
        may_reuse = not (disable_iterator_cache or update_epoch_batch_itr)
        if may_reuse and held is not None and held.dataset is dataset and held.making == making:
            return held

        def within(indices: Any, longest: Any) -> Any:
            return self.filter_indices_by_size(indices, dataset, longest, ignore_invalid_inputs)

        dataset.set_epoch(epoch)
        self.block_epochs = BlockEpochs(
            dataset, making, within, self.skips() if held is None else held.skips, updates_done,
            self.last_epoch_of(epoch), num_shards=num_shards, epoch=epoch, buffer_size=data_buffer_size, **others,
        )  # fmt: skip
        return self.block_epochs

    def skips(self) -> Skips:
        """What training goes past in the data."""
        return all_skips(self.args.skip_batches)

    def last_epoch_of(self, epoch: int) -> int:
        """The last epoch of the data of ``epoch``, 0 for none; of several folders each has its own."""
        return epoch if len(utils.split_paths(self.args.data)) > 1 else int(self.args.max_epoch)

    def build_bpe(self, args: Any) -> Any:
        """fairseq's ``--bpe``; where it is left out, the tokenizer of the data folder or of the model."""
        tokenizer = for_prompts(args, folders_of(self.args), self.dictionary)
        return super().build_bpe(args) if tokenizer is None else SymbolEncoder(tokenizer)

    def get_interactive_tokens_and_lengths(
        self, lines: Sequence[str], encode_fn: Callable[[str], str]
    ) -> Tuple[List[Tensor], List[int]]:
        """Ids of the prompts ``lines``, and how many; words that are not in the dictionary are told."""
        for line in lines:
            words = encode_fn(line).split()
            unknown = [word for word in words if word not in self.dictionary]
            if unknown:
                logger.warning(
                    f"{len(unknown)} of the {len(words)} words of the prompt {line!r} are not in "
                    f"{DICTIONARY_FILE} and become <unk>, {unknown[0]!r} first: without tokenizer files in "
                    "`DATA` a prompt is made of the words of that file, between spaces"
                )
        return super().get_interactive_tokens_and_lengths(lines, encode_fn)

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
