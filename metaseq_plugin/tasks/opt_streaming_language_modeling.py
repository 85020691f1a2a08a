"""Language modeling on raw JSONL and text, tokenised while it trains.

    fairseq-train DATA --user-dir metaseq_plugin --task opt_streaming_language_modeling \\
        --arch opt_125m --bpe opt_bpe --opt-bpe-vocab vocab.json --opt-bpe-merges merges.txt \\
        --train-subset train --valid-subset valid/wiki,valid/books --num-workers 2 …

    DATA/<split>/<shard>/<corpus>.jsonl[.gz|.zst] or .txt    shards 00, 01, …; splits like valid/wiki

``data/streaming/`` does the work and draws how; here are the options, the tokenizer, and the doors
through which fairseq asks for batches. metaseq's task of this kind is ``streaming_language_modeling``;
ours has its own name so that both can be installed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from fairseq.data import FairseqDataset
from fairseq.data.iterators import EpochBatchIterating
from fairseq.tasks import register_task
from omegaconf import II

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.parsing import TEXT
from metaseq_plugin.data.streaming.corpora import open_corpora
from metaseq_plugin.data.streaming.epochs import StreamingEpochs, different
from metaseq_plugin.data.streaming.mixing import Mixing, MixingUnit, check_mixing, parse_weights
from metaseq_plugin.data.streaming.rounds import Share
from metaseq_plugin.data.streaming.split import Identity, Settings, Split
from metaseq_plugin.data.streaming.tokens import Reader, Workers
from metaseq_plugin.layout.peers import all_ranks
from metaseq_plugin.tasks.opt_language_modeling import (
    OPTLanguageModelingConfig,
    OPTLanguageModelingTask,
    check_config,
    folders_of,
    updates_done,
)
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE
from metaseq_plugin.tokenizers.fairseq_bpe import SymbolEncoder
from metaseq_plugin.tokenizers.open import from_bpe_options, has_tokenizer


@dataclass
class OPTStreamingLanguageModelingConfig(OPTLanguageModelingConfig):
    """What is streamed, in which order and mixture."""

    # How the corpora of the training split are mixed.
    multicorpus_sampling_alpha: float = field(
        default=1.0,
        metadata={
            "help": "a corpus's share is in proportion to its size to this power: 1 takes the "
            "corpora as they are, 0 makes them equal"
        },
    )
    multicorpus_sampling_maximum: Optional[float] = field(
        default=None, metadata={"help": "largest size, in mixing units, that a corpus counts with"}
    )
    corpus_weights: Optional[str] = field(
        default=None,
        metadata={"help": "shares by name instead, in any proportion: wiki=1,books=2"},
    )
    mixing_unit: MixingUnit = field(
        default=MixingUnit.documents,
        metadata={
            "help": "what sizes and shares of corpora count: documents or bytes of the files"
        },
    )

    # How it is read.
    shuffle_window: int = field(
        default=512,
        metadata={
            "help": "blocks that are shuffled among each other, so that those of one long document "
            "do not follow each other; 1: none"
        },
    )
    index_cache_dir: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder for the indexes of the files; default: beside each file, or the user's "
            "cache folder where that cannot be written"
        },
    )
    skip_bad_documents: bool = field(
        default=False,
        metadata={"help": "leave bad documents out, count and name them, and go on"},
    )

    train_subset: str = II("dataset.train_subset")
    log_interval: int = II("common.log_interval")
    save_dir: str = II("checkpoint.save_dir")
    no_save: bool = II("checkpoint.no_save")
    bpe_options: Any = II("bpe")


def check_streaming_config(cfg: OPTStreamingLanguageModelingConfig) -> None:
    """Refuse settings that no run can use, in one sentence each."""
    check_config(cfg)
    check_mixing(mixing_of(cfg))
    if cfg.shuffle_window < 1:
        raise UserError(
            f"`--shuffle-window` must be at least 1, but is {cfg.shuffle_window}. Set 1 to leave the "
            "order of blocks as it is."
        )


def mixing_of(cfg: OPTStreamingLanguageModelingConfig) -> Mixing:
    return Mixing(
        cfg.multicorpus_sampling_alpha,
        cfg.multicorpus_sampling_maximum,
        parse_weights(cfg.corpus_weights),
        MixingUnit(cfg.mixing_unit),
    )


def keep_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Save ``tokenizer`` in ``folder``, which is made if it is not there, unless it lies there."""
    files = {**tokenizer.files(), DICTIONARY_FILE: None}
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or content not in (None, path.read_bytes()):
            folder.mkdir(parents=True, exist_ok=True)
            tokenizer.save(folder)
            return


def check_ranks_agree(identities: Sequence[Identity]) -> None:
    """Raise UserError where a rank reads another split: they share out samples by their numbers."""
    for rank, identity in enumerate(identities):
        if identity != identities[0]:
            raise UserError(
                f"The ranks of a run must read the same data, but {different(identities[0], identity)} "
                f"differ between rank 0 and rank {rank}. Give every machine the same files."
            )


class StreamingSplit(FairseqDataset):
    """A split under fairseq's name for things that batches come from."""

    def __init__(self, split: Split, trains: bool) -> None:
        self.split, self.trains = split, trains

    def __len__(self) -> int:
        """Documents; ``fairseq-eval-lm`` says it."""
        return int(self.split.drawn.sum())


@register_task("opt_streaming_language_modeling", dataclass=OPTStreamingLanguageModelingConfig)
class OPTStreamingLanguageModelingTask(OPTLanguageModelingTask):
    """``opt_language_modeling`` on text that is tokenised on the way."""

    reader_class = Reader  # what makes tokens of a document
    counted_in = "documents"

    reader: Reader
    workers: Dict[int, Workers]  # by how many they are
    train_epochs: Optional[StreamingEpochs]

    @classmethod
    def setup_task(
        cls, cfg: OPTStreamingLanguageModelingConfig, **kwargs: Any
    ) -> "OPTStreamingLanguageModelingTask":
        """Check ``cfg`` and open the tokenizer."""
        check_streaming_config(cfg)
        assert cfg.data is not None
        holders = (str(folder) for folder in folders_of(cfg) if has_tokenizer(folder))
        tokenizer = from_bpe_options(cfg.bpe_options, next(holders, cfg.data))
        task = cls(cfg, tokenizer.dictionary)
        task.reader = cls.reader_class(tokenizer, cfg.skip_bad_documents)
        task.workers = {}
        task.train_epochs = None
        return task

    def build_bpe(self, args: Any) -> SymbolEncoder:
        """The tokenizer that the task has opened: of --bpe, else of the data folder."""
        return SymbolEncoder(self.reader.tokenizer)

    def begin_epoch(self, epoch: int, model: Any) -> None:
        """Put the tokenizer beside the checkpoints, where the hub and ``metaseq convert`` look for it."""
        super().begin_epoch(epoch, model)
        if not self.args.no_save and all_ranks().rank == 0:
            keep_tokenizer(self.reader.tokenizer, Path(self.args.save_dir))

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any
    ) -> StreamingSplit:
        """Index ``split``; only the training split is mixed."""
        cfg = self.args
        trains = split == cfg.train_subset
        if combine and not trains:
            raise UserError(
                "`--combine-valid-subsets` must be left out with this task, but is set. Name the splits "
                "in --valid-subset; each of them is validated by itself."
            )
        mixing = mixing_of(cfg) if trains else Mixing()
        settings = Settings(
            self.block_size, cfg.sample_break_mode, cfg.shuffle_window, cfg.seed, mixing
        )
        corpora = open_corpora(cfg.data, split, cfg.index_cache_dir, cfg.skip_bad_documents)
        opened = Split(corpora, settings, self.reader)
        check_ranks_agree(all_ranks().all_gather(opened.identity))
        self.datasets[split] = StreamingSplit(opened, trains)
        if trains:
            self.train_epochs = None
        return self.datasets[split]

    def get_batch_iterator(self, dataset: FairseqDataset, **asked: Any) -> EpochBatchIterating:
        """Epochs of this rank's batches."""
        if isinstance(dataset, StreamingSplit):
            return self.stream(dataset, **asked)
        return super().get_batch_iterator(dataset, **asked)  # prompts

    def stream(
        self,
        dataset: StreamingSplit,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        required_batch_size_multiple: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        **others: Any,
    ) -> StreamingEpochs:
        """``get_batch_iterator`` of a stream; for the training split always the same object."""
        # --valid-subset may name the training split; fairseq says this only where it will train.
        trains = dataset.trains and "update_epoch_batch_itr" in others
        if trains and self.train_epochs is not None:
            return self.train_epochs
        block_size = dataset.split.settings.block_size
        batch_size = blocks_a_batch(
            max_tokens, max_sentences, block_size, required_batch_size_multiple
        )
        if num_workers not in self.workers:
            self.workers[num_workers] = Workers(self.reader, num_workers)
        workers = self.workers[num_workers]
        share = Share(batch_size, num_shards, shard_id, block_size)
        if not trains:
            return StreamingEpochs(dataset.split, share, workers)
        interval = self.args.log_interval if shard_id == 0 else 0
        self.train_epochs = StreamingEpochs(
            dataset.split,
            share,
            workers,
            epoch,
            self.skips(),
            updates_done,
            interval,
            self.args.max_epoch,
        )
        return self.train_epochs

    def eval_lm_dataloader(self, dataset: FairseqDataset, *args: Any, **kwargs: Any) -> Any:
        """The batches of ``fairseq-eval-lm``, which scores whole rows in blocks as they come."""
        if self.reader.keys != TEXT:
            raise UserError(
                "`--task` must be one whose every token has a target with fairseq-eval-lm, but is one of "
                "pairs. Use fairseq-validate, which counts the targets alone."
            )
        if kwargs.get("context_window", 0) > 0:
            raise UserError(
                "`--context-window` must be 0 with this task, but is "
                f"{kwargs['context_window']}. Leave it out, or use `metaseq prepare` and "
                "opt_language_modeling."
            )
        return super().eval_lm_dataloader(dataset, *args, **kwargs)


def blocks_a_batch(
    max_tokens: Optional[int], max_sentences: Optional[int], block_size: int, multiple: int = 1
) -> int:
    """Blocks of a batch under ``--max-tokens`` and ``--batch-size``, as fairseq makes them.

    Args:
        multiple: ``--required-batch-size-multiple``; a batch of fewer is left as it is.
    """
    if max_tokens is not None and max_tokens < block_size:
        raise UserError(
            f"`--max-tokens` must be at least --tokens-per-sample ({block_size}), but is "
            f"{max_tokens}. Set --batch-size instead, or more."
        )
    if max_sentences is not None and max_sentences < 1:
        raise UserError(f"`--batch-size` must be at least 1, but is {max_sentences}. Set more.")
    limits = [max_sentences, None if max_tokens is None else max_tokens // block_size]
    most = min(limit for limit in limits if limit is not None)
    return max(most - most % multiple, most % multiple)
