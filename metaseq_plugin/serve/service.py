"""What all routes share: the model once it is there, the engine behind it, and whether new work is taken.

A service is loading, then ready, then draining; each is said by ``/health``.
"""

import time
from typing import NamedTuple, Optional, Sequence

from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.errors import ApiError, unavailable
from metaseq_plugin.serve.metrics import Metrics

# Where a sentence ends, the nucleus of top_p_decay is whole again, as in metaseq.
SENTENCE_ENDS = (".", "?", "!")


class Options(NamedTuple):
    """How a service behaves."""

    name: str = "opt"  # what `/v1/models` calls the model
    keys: Sequence[str] = ()  # none: everybody is let in
    max_batch_tokens: int = 16_384  # a job's prompt and new tokens, all samples together
    max_waiting: int = 256  # most jobs in the queue, so most prompts of one request too
    timeout: float = 600.0  # seconds for a request


class Loaded(NamedTuple):
    """A model that can be asked."""

    opt: OPT
    engine: Engine
    created: int  # seconds since 1970
    sentence_ends: tuple[int, ...]  # token ids


def sentence_ends_of(opt: OPT) -> tuple[int, ...]:
    """The tokens that are a sentence's last, each alone; none where a text takes several tokens."""
    encoded = [opt.encode(text) for text in SENTENCE_ENDS]
    return tuple(tokens[0] for tokens in encoded if len(tokens) == 1)


class Service:
    """One model behind HTTP.

    Attributes:
        loaded: None until the model is there.
        is_draining: no new requests are taken.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.metrics = Metrics(self.statistics)
        self.loaded: Optional[Loaded] = None
        self.is_draining = False

    def open(self, opt: OPT, engine: Engine) -> None:
        """Take requests from now on."""
        self.loaded = Loaded(opt, engine, int(time.time()), sentence_ends_of(opt))

    def drain(self) -> None:
        """Take no more; what is under way goes on."""
        self.is_draining = True

    def ready(self) -> Loaded:
        """The model.

        Raises:
            ApiError: 503, it is being loaded, or the server stops.
        """
        if self.is_draining:
            raise unavailable("it is stopping")
        if self.loaded is None:
            raise unavailable("it is loading the model")
        return self.loaded

    def check_name(self, name: str) -> None:
        """Raise ApiError unless ``name`` is the model's, or empty."""
        if name not in ("", self.options.name):
            raise ApiError(
                404,
                f"`model` must be {self.options.name}, which this server has, but is another. "
                "Set that, or leave it out.",
                "model",
                "model_not_found",
            )

    def statistics(self) -> dict[str, float]:
        """The engine's numbers, by name; none before there is one."""
        return {} if self.loaded is None else dict(self.loaded.engine.statistics()._asdict())
