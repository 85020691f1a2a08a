"""Who stands in for fairseq where a model of ours is concerned: compat asks the host, and imports nothing above it.

``metaseq_plugin/__init__`` registers the one host (``metaseq_plugin/host.py``). Until then, and for models that
are not the host's, every function of fairseq does what it always did.
"""

from typing import Any, ContextManager, Dict, List, Mapping, Optional, Protocol


class Host(Protocol):
    """What the seams ask for; ``cfg`` is fairseq's configuration of the whole run."""

    def owns(self, cfg: Any) -> bool:
        """Whether the model of the run is the host's."""

    def owns_model(self, model: Any) -> bool:
        """Whether ``model`` is the host's."""

    def owns_task(self, name: str) -> bool:
        """Whether the task of this name is the host's."""

    def architecture(self, args: Any) -> List[str]:
        """``--arch`` and its dimensions of the checkpoint that a run with the options ``args`` starts from."""

    def check(self, cfg: Any) -> None:
        """Refuse settings that no layout of ranks can have."""

    def prepare(self, cfg: Any) -> None:
        """Lay a training run out over its ranks; before fairseq's ``main``."""

    def alone(self, cfg: Any) -> ContextManager[None]:
        """For the time of the block, no other run saves where this one does; collective."""

    def metering(self) -> ContextManager[None]:
        """For the time of the block, what a run computes and uses may be measured."""

    def epoch_begins(self, epoch_itr: Any) -> None:
        """Training goes on with this iterator."""

    def tick(self, update: int) -> None:
        """A step of training or validation has been made."""

    def measured(self, stats: Any, tokens: Optional[int]) -> Dict[str, float]:
        """What a log line of ``stats`` gains; ``tokens`` are those of the run so far, where they were counted."""

    def recorded(self, cfg: Any) -> ContextManager[Optional[Any]]:
        """For the time of the block, the run is recorded; who observes it (``recorded_run``). Collective."""

    def has_begun(self, seconds: float, parts: Mapping[str, float]) -> None:
        """The first update of a start is over, ``seconds`` after the process began; ``parts`` add up to them."""

    def watched(self, cfg: Any) -> Optional[Any]:
        """Who watches the run on this rank (``watched_updates``). Collective."""

    def saves_on_signal(self, cfg: Any) -> bool:
        """Whether the run saves what it has, and then ends, on SIGINT and SIGTERM."""

    def make_groups(self, model_parallel_size: int) -> None:
        """Put all ranks in a grid; collective, once torch.distributed is initialised."""

    def grid(self) -> Any:
        """This rank's place among the others: the ranks, sizes and groups of both axes."""

    def wrap(self, model: Any) -> Optional[Any]:
        """``model`` sharded, in the place of FairScale's FSDP; None where that is to wrap it."""

    def is_sharded(self, model: Any) -> bool:
        """Whether ``wrap`` made ``model``."""

    def save(self, cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Optional[float]) -> None:
        """In the place of ``save_checkpoint``; ``cfg`` holds the options of checkpoints."""

    def load(self, cfg: Any, trainer: Any, **passthrough: Any) -> Any:
        """In the place of ``load_checkpoint``: (extra_state, epoch_itr)."""

    def member(self, path: str) -> Optional[str]:
        """A file of the set that ``path`` means where it is no file itself, or None."""

    def read(self, path: str) -> Optional[Dict[str, Any]]:
        """The whole state at ``path``, or None where fairseq is to read it."""


class _Registered:
    """Where the host of this process is found."""

    host: Optional[Host] = None


def register(host: Optional[Host]) -> None:
    """Give the models that ``host`` owns into its hands; None gives all back to fairseq."""
    _Registered.host = host


def registered() -> Optional[Host]:
    """The host of this process, if there is one."""
    return _Registered.host


def host_of(cfg: Any) -> Optional[Host]:
    """The host, if it owns the model of the run ``cfg``."""
    host = registered()
    return host if host is not None and host.owns(cfg) else None
