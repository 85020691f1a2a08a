"""What fairseq's checkpoint functions do for models of ours: one object for ``compat.checkpoint_sets``."""

from pathlib import Path
from typing import Any, Dict, Optional

from metaseq_plugin.checkpoint.load import load_checkpoint
from metaseq_plugin.checkpoint.manifest import set_name
from metaseq_plugin.checkpoint.save import save_checkpoint
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_file import open_file
from metaseq_plugin.sizes import is_opt


class SetEngine:
    """Saves and loads sets; ``metaseq_plugin/__init__`` registers one."""

    def handles(self, trainer: Any) -> bool:
        """Whether ``trainer`` trains an OPT."""
        return is_opt(trainer.cfg.model._name)

    def save(self, cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Optional[float]) -> None:
        save_checkpoint(cfg, trainer, epoch_itr, val_loss)

    def load(self, cfg: Any, trainer: Any, **passthrough: Any) -> Any:
        return load_checkpoint(cfg, trainer, **passthrough)

    def member(self, path: str) -> Optional[str]:
        """A file of the set that ``path`` names without being a file itself."""
        name = set_name(Path(path))
        if Path(path).is_file() or not name.exists:
            return None
        return str((name.files() or [name.manifest_path])[0])

    def read(self, path: str) -> Optional[Dict[str, Any]]:
        """The whole state of a set; None for one file without a manifest, and for others' models."""
        name = set_name(Path(path))
        files = name.files()
        if not name.manifest_path.is_file():
            is_single = len(files) < 2 and Path(path).is_file()
            if is_single or not files or not is_opt(model_name(open_file(files[0]).state)):
                return None
        return CheckpointSet.open(Path(path)).whole()


def model_name(state: Dict[str, Any]) -> str:
    """The registered name of the model that ``state`` is of, or ""."""
    return str(((state.get("cfg") or {}).get("model") or {}).get("_name") or "")
