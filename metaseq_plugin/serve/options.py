"""How a server behaves; each default has its home here."""

from typing import NamedTuple, Sequence

from metaseq_plugin.generation.generator import MAX_BATCH_TOKENS


class Options(NamedTuple):
    """Beside the model, all that ``metaseq serve`` is told."""

    name: str = "opt"  # what `/v1/models` calls the model
    keys: Sequence[str] = ()  # none: everybody is let in
    max_batch_tokens: int = MAX_BATCH_TOKENS  # prompts and new tokens of all rows at once
    max_waiting: int = 256  # most jobs in the queue, so most prompts of one request too
    timeout: float = 600.0  # seconds for a request
    drain_timeout: float = 30.0  # seconds for what is under way once the server is told to stop
