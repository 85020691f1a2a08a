"""What all routes share: the model once it is there, the engine behind it, and whether new work is taken.

A service is loading, then ready, then draining; each is said by ``/health``.
"""

import time
from typing import NamedTuple, Optional

from metaseq_plugin.compat.errors import LostRank
from metaseq_plugin.generation.engine import Engine, Statistics
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.errors import ApiError, unavailable
from metaseq_plugin.serve.metrics import Metrics
from metaseq_plugin.serve.options import Options


class Loaded(NamedTuple):
    """A model that can be asked."""

    opt: OPT
    engine: Engine
    created: int  # seconds since 1970


class Service:
    """One model behind HTTP.

    Attributes:
        loaded: None until the model is there.
        is_draining: no new requests are taken.
        lost: why the model can be used no more, where a rank that holds a part of it is gone.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.metrics = Metrics(self.statistics)
        self.loaded: Optional[Loaded] = None
        self.is_draining = False
        self.lost: Optional[LostRank] = None

    def open(self, opt: OPT, engine: Engine) -> None:
        """Take requests from now on."""
        _ = opt.sentence_ends  # found now, not while a request waits
        self.loaded = Loaded(opt, engine, int(time.time()))
        opt.ranks.when_lost(self.lose)

    def lose(self, sentence: str) -> None:
        """The model is lost, says ``sentence``; from any thread."""
        self.lost = LostRank(sentence)

    def close(self) -> None:
        """Cancel what is under way, and let the model's other ranks go."""
        if self.loaded is not None:
            self.loaded.engine.close(drains=False)
            self.loaded.opt.close()

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

    def statistics(self) -> Optional[Statistics]:
        """The engine's numbers; None before there is one."""
        return None if self.loaded is None else self.loaded.engine.statistics()
