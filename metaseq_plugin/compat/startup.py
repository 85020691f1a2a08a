"""Make the stock ``fairseq-*`` commands run on today's Python, NumPy and PyTorch.

The start-up hook (``setup.py`` installs it as ``metaseq_plugin_hook.pth``) loads this module in
every interpreter, spawned children included, before ``--user-dir`` is read. Therefore it imports
neither torch nor fairseq nor anything slow (``typing`` alone takes longer than all the rest), and
never ``metaseq_plugin`` itself: fairseq skips a ``--user-dir`` whose package is already imported.

The steps:
(1) ``install()`` puts one ``SeamFinder`` in front of ``sys.meta_path``;
(2) when a module named in ``SEAMS`` is about to be imported, the finder applies each of its seams,
    before the module runs (``before``) or right after (``after``);
(3) every seam reports what it did in ``REPORT``, and ``metaseq doctor`` prints it.

``METASEQ_PLUGIN_COMPAT=0`` in the environment turns all of it off.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own, without the import; type checkers know the name
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Optional, Sequence

SWITCH = "METASEQ_PLUGIN_COMPAT"


class Seam:
    """One repair: ``when`` ("before" or "after") ``target`` is imported, call ``function`` of ``module``.

    ``module`` is a file of this folder. An "after" function is given the imported target. A function
    returns None where it has done its work, and the reason where it is not needed. With ``attribute``,
    that of the target or of a class in it, the function is given it and returns what takes its place.
    """

    __slots__ = ("attribute", "function", "module", "target", "when")

    def __init__(
        self, target: str, when: str, module: str, function: str, attribute: str = ""
    ) -> None:
        self.target, self.when, self.module, self.function = target, when, module, function
        self.attribute = attribute

    @property
    def name(self) -> str:
        return f"{self.module}.{self.function}"

    def apply(self, target: Optional[ModuleType]) -> Optional[str]:
        """Do it; the reason where it is not needed."""
        from importlib import import_module

        repair = vars(import_module(f"metaseq_plugin.compat.{self.module}"))[self.function]
        if target is None:
            return repair()
        if not self.attribute:
            return repair(target)
        owner, _, name = self.attribute.rpartition(".")
        holder = vars(target)[owner] if owner else target
        setattr(holder, name, repair(vars(holder)[name]))
        return None


# fmt: off
SEAMS = (
    # omegaconf is the first of the three to be imported on any path, and is what pytest's
    # assertion-rewriting hook leaves to us when it claims hydra for itself.
    Seam("omegaconf", "before", "mutable_defaults", "give_hashes"),
    Seam("hydra", "before", "mutable_defaults", "give_hashes"),
    Seam("fairseq", "before", "mutable_defaults", "give_hashes"),
    Seam("omegaconf", "after", "config_copies", "leaving_parents"),
    Seam("hydra.core.plugins", "after", "hydra_plugins", "provide_find_module"),
    Seam("fairseq.dataclass.utils", "after", "hydra_plugins", "provide_find_module"),
    Seam("fairseq", "before", "huge_pages", "ask"),
    Seam("fairseq", "before", "quiet_warnings", "silence"),
    Seam("fairscale", "before", "quiet_warnings", "silence"),
    Seam("fairseq.data.data_utils", "after", "numpy_names", "provide_lost_names"),
    Seam("fairseq.data.language_pair_dataset", "after", "numpy_names", "provide_lost_names"),
    Seam("fairseq.data.token_block_dataset", "after", "numpy_names", "provide_lost_names"),
    Seam("fairseq.data.token_block_dataset", "after", "numpy_scalars", "sign_offsets"),
    Seam("fairseq.data.iterators", "after", "resumed_batches", "counting_from_the_beginning", "EpochBatchIterator._get_iterator_for_epoch"),
    Seam("fairseq.data.iterators", "after", "resumed_batches", "grouping_what_is_left", "GroupedIterator.__init__"),
    Seam("fairseq.data.iterators", "after", "grouped_batches", "let_streams_group"),
    Seam("fairseq.logging.progress_bar", "after", "progress_length", "ask_at_every_line"),
    Seam("fairseq.data.huffman.huffman_coder", "after", "bitarray_rindex", "provide_rindex"),
    Seam("fairseq.checkpoint_utils", "after", "safe_checkpoints", "allow_plain_data"),
    Seam("fairseq.checkpoint_utils", "after", "checkpoint_errors", "requiring_writable", "verify_checkpoint_directory"),
    Seam("fairseq.models.distributed_fairseq_model", "after", "cpu_ranks", "take_any_device"),
    Seam("fairseq.trainer", "after", "cpu_ranks", "staying", "Trainer.train_step"),
    Seam("fairseq.trainer", "after", "one_model", "go_together"),
    Seam("fairseq.distributed.utils", "after", "cpu_ranks", "gathering", "all_gather_list"),
    Seam("fairseq.distributed.utils", "after", "rank_timeout", "bounding_collectives", "distributed_init"),
    Seam("fairseq.distributed.utils", "after", "safe_checkpoints", "allow_placeholders"),
    Seam("fairseq.distributed.distributed_timeout_wrapper", "after", "rank_timeout", "wake_to_end"),
    Seam("fairseq.models.distributed_fairseq_model", "after", "rank_timeout", "bound_own_work"),
    Seam("fairseq.optim.dynamic_loss_scaler", "after", "loss_scale", "bounding_skips", "DynamicLossScaler.check_overflow"),
    Seam("fairseq.trainer", "after", "finite_numbers", "ending_briefly", "Trainer._check_grad_norms"),
    Seam("fairseq.trainer", "after", "watched_updates", "judging", "Trainer._check_grad_norms"),
    # late_statistics around all that looks at the norm, and around all that is told of it.
    Seam("fairseq.trainer", "after", "late_statistics", "settling_the_one_before", "Trainer._check_grad_norms"),
    Seam("fairseq.trainer", "after", "late_statistics", "left_unread", "Trainer.clip_grad_norm"),
    Seam("fairseq.model_parallel.megatron_trainer", "after", "late_statistics", "left_unread", "MegatronTrainer.clip_grad_norm"),
    Seam("fairseq.trainer", "after", "late_statistics", "never_zero", "Trainer._aggregate_logging_outputs"),
    Seam("fairseq.trainer", "after", "watched_updates", "showing_updates", "Trainer.train_step"),
    Seam("fairseq.trainer", "after", "watched_updates", "showing_the_sums", "Trainer._aggregate_logging_outputs"),
    Seam("fairseq.trainer", "after", "watched_updates", "changing_the_rate", "Trainer.lr_step_update"),
    Seam("fairseq.tasks.fairseq_task", "after", "watched_updates", "showing_what_is_logged", "FairseqTask.train_step"),
    Seam("fairseq.sequence_scorer", "after", "finite_numbers", "refusing_nan", "SequenceScorer.generate"),
    Seam("torch.distributed.run", "after", "torchrun_report", "in_one_line", "main"),
    Seam("fairseq.checkpoint_utils", "after", "checkpoint_sets", "saving", "save_checkpoint"),
    Seam("fairseq.checkpoint_utils", "after", "checkpoint_sets", "loading", "load_checkpoint"),
    Seam("fairseq.checkpoint_utils", "after", "checkpoint_sets", "reading", "load_checkpoint_to_cpu"),
    Seam("fairseq.checkpoint_utils", "after", "checkpoint_sets", "naming_a_member", "get_maybe_sharded_checkpoint_filename"),
    Seam("fairseq.trainer", "after", "checkpoint_sets", "without_crash_file", "Trainer.save_checkpoint"),
    Seam("fairseq.trainer", "after", "checkpoint_sets", "without_crash_gather", "Trainer.consolidate_optimizer"),
    # log_lines inside wall_clock, which sets the clock among the meters that are logged to.
    Seam("fairseq.trainer", "after", "log_lines", "counting_on", "Trainer.load_checkpoint"),
    Seam("fairseq.trainer", "after", "wall_clock", "going_on", "Trainer.load_checkpoint"),
    Seam("fairseq.options", "after", "bf16", "keeping_the_device", "parse_args_and_arch"),
    # arch around whole_help: it steps aside where help is asked for.
    Seam("fairseq.options", "after", "whole_help", "showing_all", "parse_args_and_arch"),
    Seam("fairseq.options", "after", "arch", "taking_the_checkpoints", "parse_args_and_arch"),
    Seam("fairseq.options", "after", "door", "refuse_usage_briefly"),
    Seam("fairseq.utils", "after", "user_dir", "finding_us", "import_user_module"),
    Seam("fairseq_cli.hydra_train", "after", "user_dir", "importing_first", "cli_main"),
    Seam("fairseq_cli.interactive", "after", "prompts", "reading_whole_lines", "buffered_read"),
    Seam("fairseq_cli.generate", "after", "parallel_doors", "refusing_parts", "_main"),
    Seam("fairseq_cli.interactive", "after", "parallel_doors", "refusing_parts", "main"),
    Seam("fairseq_cli.interactive", "after", "prompts", "for_tasks_of_the_host", "main"),
    *(
        Seam(f"fairseq_cli.{command}", "after", "door", "guard")
        for command in ("eval_lm", "generate", "hydra_train", "interactive", "preprocess", "train", "validate")
    ),
    Seam("fairseq.distributed.utils", "after", "parallel_doors", "checking", "distributed_init"),
    Seam("fairseq.distributed.fully_sharded_data_parallel", "after", "parallel_doors", "sharding", "fsdp_wrap"),
    Seam("fairseq.models.distributed_fairseq_model", "after", "parallel_doors", "leave_sharded_alone"),
    Seam("fairseq.optim.fp16_optimizer", "after", "parallel_doors", "mark_copies"),
    Seam("fairseq.distributed.utils", "after", "process_groups", "leaving_together", "distributed_main"),
    Seam("fairseq.distributed.utils", "after", "process_groups", "leaving_alone", "call_main"),
    Seam("fairseq.optim.fp16_optimizer", "after", "few_copies", "gradients_together", "_FP16OptimizerMixin._sync_fp16_grads_to_fp32"),
    Seam("fairseq.optim.fp16_optimizer", "after", "few_copies", "weights_together", "_FP16OptimizerMixin._sync_fp32_params_to_fp16"),
    Seam("fairseq.optim.fp16_optimizer", "after", "few_copies", "zeros_together", "_FP16OptimizerMixin.zero_grad"),
    Seam("fairseq.utils", "after", "host_batches", "pinning", "move_to_cuda"),
    Seam("fairseq.distributed.utils", "after", "host_batches", "sending_ahead", "all_reduce_dict"),
    Seam("fairseq.distributed.utils", "after", "spawned_ranks", "passing_on", "call_main"),
    Seam("fairseq_cli.train", "after", "watched_updates", "going_back", "main"),
    Seam("fairseq_cli.train", "after", "log_lines", "metering", "main"),
    Seam("fairseq_cli.train", "after", "log_lines", "beginning", "train"),
    Seam("fairseq_cli.train", "after", "log_lines", "adding", "get_training_stats"),
    Seam("fairseq.trainer", "after", "log_lines", "ticking", "Trainer.train_step"),
    Seam("fairseq.trainer", "after", "log_lines", "ticking", "Trainer.valid_step"),
    Seam("fairseq_cli.train", "after", "recorded_run", "recording", "main"),
    Seam("fairseq_cli.train", "after", "parallel_doors", "preparing", "main"),
    Seam("fairseq_cli.train", "after", "finished_runs", "ending_well", "main"),
    Seam("fairseq_cli.train", "after", "stop_on_signal", "listening", "main"),
    Seam("fairseq_cli.train", "after", "stop_on_signal", "noting_the_beginning", "train"),
    Seam("fairseq_cli.train", "after", "stop_on_signal", "ending_when_told", "validate_and_save"),
    Seam("fairseq_cli.train", "after", "update_clock", "telling", "main"),
    Seam("fairseq_cli.train", "after", "update_clock", "telling_the_beginning", "train"),
    Seam("fairseq_cli.train", "after", "update_clock", "telling_each_update", "validate_and_save"),
    Seam("fairseq_cli.train", "after", "update_clock", "telling_it_is_busy", "validate"),
    Seam("fairseq.checkpoint_utils", "after", "update_clock", "telling_it_is_busy", "save_checkpoint"),
    # first_update inside recorded_run, which tells the ledger of the update before.
    Seam("fairseq_cli.train", "after", "first_update", "having_updated", "validate_and_save"),
    Seam("fairseq_cli.train", "after", "late_statistics", "settling_at_the_end", "validate_and_save"),
    Seam("fairseq_cli.train", "after", "recorded_run", "telling_each_update", "validate_and_save"),
    Seam("fairseq_cli.train", "after", "recorded_run", "telling_of_validation", "validate"),
    Seam("fairseq_cli.train", "after", "recorded_run", "telling_what_was_found", "get_valid_stats"),
    Seam("fairseq.checkpoint_utils", "after", "recorded_run", "telling_of_saves", "save_checkpoint"),
    Seam("fairseq.trainer", "after", "recorded_run", "telling_what_it_loads", "Trainer.load_checkpoint"),
    Seam("fairseq.trainer", "after", "recorded_run", "telling_it_computes", "Trainer.train_step"),
    Seam("fairseq.trainer", "after", "recorded_run", "telling_the_sums", "Trainer._reduce_and_log_stats"),
    Seam("fairseq.trainer", "after", "recorded_run", "telling_of_memory", "Trainer._log_oom"),
    # Outermost: what is outstanding is settled before anybody is told of what follows.
    Seam("fairseq.trainer", "after", "late_statistics", "holding", "Trainer._reduce_and_log_stats"),
    Seam("fairseq_cli.train", "after", "late_statistics", "settling_first", "validate"),
    Seam("fairseq.checkpoint_utils", "after", "late_statistics", "settling_first", "save_checkpoint"),
    Seam("fairseq.trainer", "after", "late_statistics", "settling_before_memory_ends", "Trainer._log_oom"),
    Seam("fairseq_cli.train", "after", "late_statistics", "settling_at_an_error", "train"),
    Seam("fairseq_cli.train", "after", "checkpoint_errors", "looking_only", "main"),
    Seam("fairseq_cli.train", "after", "mlflow_tracker", "tracking", "main"),
    Seam("fairseq.logging.progress_bar", "after", "mlflow_tracker", "telling_mlflow", "progress_bar"),
    Seam("fairseq.logging.progress_bar", "after", "aim_values", "telling_texts", "AimProgressBarWrapper.update_config"),
    Seam("fairseq.logging.progress_bar", "after", "aim_values", "telling_numbers", "AimProgressBarWrapper._log_to_aim"),
    Seam("fairseq_cli.train", "after", "trackers", "requiring_installed", "main"),
    Seam("fairseq_cli.train", "after", "quiet_start", "quietly", "main"),
    # around all others of main, load_checkpoint and train
    Seam("fairseq_cli.train", "after", "first_update", "clocking", "main"),
    Seam("fairseq_cli.train", "after", "first_update", "having_loaded", "train"),
    Seam("fairseq.checkpoint_utils", "after", "first_update", "having_built", "load_checkpoint"),
    Seam("lm_eval.models", "after", "lm_eval_command", "naming_our_model"),
    Seam("lm_eval.__main__", "after", "lm_eval_command", "in_one_sentence", "cli_evaluate"),
)
# fmt: on

# Modules that fairseq imports and no release of it contains -> the file of this folder that stands in.
PROVIDED = {
    "fairseq.model_parallel.megatron": "__init__.py",
    "fairseq.model_parallel.megatron.mpu": "mpu.py",
}

# target module -> seam's name -> "applied", or why not; read by `metaseq doctor`.
REPORT: dict[str, dict[str, str]] = {}


def apply_seams(target: str, when: str, module: Optional[ModuleType]) -> None:
    """Run every seam of ``target`` that belongs ``when``, once."""
    for seam in SEAMS:
        if seam.target == target and seam.when == when:
            done = REPORT.setdefault(target, {})
            if seam.name not in done:
                reason = seam.apply(module)
                done[seam.name] = "applied" if reason is None else f"not needed ({reason})"


class SeamLoader:
    """A module's own loader, followed by the module's "after" seams."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:  # get_source, is_package, … of the real loader
        return getattr(self.inner, name)

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        return self.inner.create_module(spec)  # type: ignore[attr-defined]

    def exec_module(self, module: ModuleType) -> None:
        self.inner.exec_module(module)  # type: ignore[attr-defined]
        apply_seams(module.__name__, "after", module)


def provided_spec(name: str) -> Optional[ModuleSpec]:
    """The spec of a module of ``PROVIDED``."""
    from importlib.util import spec_from_file_location

    is_package = PROVIDED[name] == "__init__.py"
    path = os.path.join(os.path.dirname(__file__), PROVIDED[name])
    return spec_from_file_location(
        name, path, submodule_search_locations=[] if is_package else None
    )


class SeamFinder:
    """A finder that finds nothing itself: it notices imports and lets seams run around them."""

    before = frozenset(seam.target for seam in SEAMS if seam.when == "before")
    after = frozenset(seam.target for seam in SEAMS if seam.when == "after")

    def find_spec(
        self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        if name in PROVIDED:
            return provided_spec(name)
        if name in self.before:
            apply_seams(name, "before", None)
        if name not in self.after:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = SeamLoader(spec.loader)  # type: ignore[assignment]
        return spec


def install() -> None:
    """Put the finder in front, unless it is there already or the user switched it off."""
    if os.environ.get(SWITCH) == "0" or any(isinstance(f, SeamFinder) for f in sys.meta_path):
        return
    sys.meta_path.insert(0, SeamFinder())
