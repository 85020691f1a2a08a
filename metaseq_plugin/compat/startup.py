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
    returns None where it has done its work, and the reason where it is not needed.
    """

    __slots__ = ("function", "module", "target", "when")

    def __init__(self, target: str, when: str, module: str, function: str) -> None:
        self.target, self.when, self.module, self.function = target, when, module, function

    @property
    def name(self) -> str:
        return f"{self.module}.{self.function}"


# fmt: off
SEAMS = (
    # omegaconf is the first of the three to be imported on any path, and is what pytest's
    # assertion-rewriting hook leaves to us when it claims hydra for itself.
    Seam("omegaconf", "before", "mutable_defaults", "give_hashes"),
    Seam("hydra", "before", "mutable_defaults", "give_hashes"),
    Seam("fairseq", "before", "mutable_defaults", "give_hashes"),
    Seam("hydra.core.plugins", "after", "hydra_plugins", "provide_find_module"),
    Seam("fairseq.dataclass.utils", "after", "hydra_plugins", "provide_find_module"),
    Seam("fairseq", "before", "quiet_warnings", "silence"),
    Seam("fairscale", "before", "quiet_warnings", "silence"),
    Seam("fairseq.data.data_utils", "after", "numpy_names", "provide_lost_names"),
    Seam("fairseq.data.language_pair_dataset", "after", "numpy_names", "provide_lost_names"),
    Seam("fairseq.data.token_block_dataset", "after", "numpy_names", "provide_lost_names"),
    Seam("fairseq.data.token_block_dataset", "after", "numpy_scalars", "sign_offsets"),
    Seam("fairseq.data.iterators", "after", "grouped_batches", "let_streams_group"),
    Seam("fairseq.data.huffman.huffman_coder", "after", "bitarray_rindex", "provide_rindex"),
    Seam("fairseq.checkpoint_utils", "after", "safe_checkpoints", "allow_plain_data"),
    Seam("fairseq.checkpoint_utils", "after", "checkpoint_errors", "require_writable_folder"),
    Seam("fairseq.models.distributed_fairseq_model", "after", "cpu_ranks", "take_any_device"),
    Seam("fairseq.trainer", "after", "cpu_ranks", "keep_on_host"),
    Seam("fairseq.trainer", "after", "one_model", "go_together"),
    Seam("fairseq.distributed.utils", "after", "cpu_ranks", "gather_without_gpu"),
    Seam("fairseq.distributed.utils", "after", "rank_timeout", "bound_collectives"),
    Seam("fairseq.distributed.utils", "after", "safe_checkpoints", "allow_placeholders"),
    Seam("fairseq.distributed.distributed_timeout_wrapper", "after", "rank_timeout", "bound_own_work"),
    Seam("fairseq.optim.dynamic_loss_scaler", "after", "loss_scale", "bound_skips"),
    Seam("torch.distributed.run", "after", "torchrun_report", "report_in_one_line"),
    Seam("fairseq.checkpoint_utils", "after", "checkpoint_sets", "keep_sets"),
    Seam("fairseq.trainer", "after", "checkpoint_sets", "spare_a_failed_rank"),
    Seam("fairseq.options", "after", "bf16", "keep_the_device"),
    Seam("fairseq.options", "after", "door", "refuse_usage_briefly"),
    Seam("fairseq.utils", "after", "user_dir", "find_us"),
    Seam("fairseq_cli.hydra_train", "after", "user_dir", "import_us_first"),
    Seam("fairseq_cli.eval_lm", "after", "door", "guard"),
    Seam("fairseq_cli.generate", "after", "door", "guard"),
    Seam("fairseq_cli.hydra_train", "after", "door", "guard"),
    Seam("fairseq_cli.interactive", "after", "door", "guard"),
    Seam("fairseq_cli.preprocess", "after", "door", "guard"),
    Seam("fairseq_cli.train", "after", "door", "guard"),
    Seam("fairseq_cli.validate", "after", "door", "guard"),
    Seam("fairseq.distributed.utils", "after", "parallel_doors", "check_layout"),
    Seam("fairseq.distributed.fully_sharded_data_parallel", "after", "parallel_doors", "shard_by_host"),
    Seam("fairseq.models.distributed_fairseq_model", "after", "parallel_doors", "leave_sharded_alone"),
    Seam("fairseq.optim.fp16_optimizer", "after", "parallel_doors", "mark_copies"),
    Seam("fairseq_cli.train", "after", "parallel_doors", "prepare_run"),
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
    from importlib import import_module

    for seam in SEAMS:
        if seam.target == target and seam.when == when:
            done = REPORT.setdefault(target, {})
            if seam.name not in done:
                repair = vars(import_module(f"metaseq_plugin.compat.{seam.module}"))[seam.function]
                reason = repair() if module is None else repair(module)
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
