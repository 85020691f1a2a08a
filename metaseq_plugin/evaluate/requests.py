"""What an evaluation asks of a model, and what it is answered: no model, no task.

A request is one of three: how likely a text is behind another (``Pair``), how likely a whole text is, window after
window (``Whole``), and how a text goes on (``Prompt``). ``Model`` is whoever answers: a model in this process
(``model.py``), one behind HTTP (``endpoint.py``), or a test's.
"""

from typing import (
    Any,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Union,
    runtime_checkable,
)


class Pair(NamedTuple):
    """``continuation`` behind ``context``, both behind ``</s>``; an empty context is a document's beginning."""

    context: str
    continuation: str


class Whole(NamedTuple):
    """A text of any length, read in windows: each token behind as many as the protocol says."""

    text: str


class Prompt(NamedTuple):
    """A text to go on with.

    Attributes:
        options: as ``OPT.generate`` takes them: max_new_tokens, temperature, top_p, num_samples, stop, seed.
    """

    text: str
    options: Mapping[str, Any]


class PairAnswer(NamedTuple):
    """Of a ``Pair``.

    Attributes:
        log_likelihood: of the continuation's tokens, natural, summed in fp64 over fp32 log-probabilities.
        ntokens: of the continuation.
        is_greedy: whether each of them is the likeliest of its place.
        is_merged: whether a token of the joined text lies on both sides of the boundary; it counts as continuation.
        ncut: tokens of the context that were left out on the left, because the model reads no more.
    """

    log_likelihood: float
    ntokens: int
    is_greedy: bool
    is_merged: bool = False
    ncut: int = 0


class WholeAnswer(NamedTuple):
    """Of a ``Whole``; every token of the text is counted once.

    Attributes:
        log_likelihood: natural, of all tokens.
        ntokens, nwindows: of the text.
    """

    log_likelihood: float
    ntokens: int
    nwindows: int


class PromptAnswer(NamedTuple):
    """Of a ``Prompt``: a text for each of its samples.

    Attributes:
        ncut: tokens of the prompt that were left out on the left, so that the new ones can be read behind it.
    """

    texts: tuple[str, ...]
    ncut: int = 0


Request = Union[Pair, Whole, Prompt]
Answer = Union[PairAnswer, WholeAnswer, PromptAnswer]


class Model(Protocol):
    """Whoever answers.

    Attributes:
        about: what results say of it, in JSON: path, checkpoint, num_parameters, dtype, device, fingerprint
            (of config and weights' names, shapes and first values), tokenizer (a digest), longest (tokens that it
            reads), whole (how it reads a ``Whole``, which is part of a protocol).
    """

    about: Mapping[str, Any]

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Each request's index and answer, in the order in which they are found.

        Raises:
            UserError: a request that this model cannot answer.
        """
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A model that can tell beforehand what it cannot answer."""

    def obstacle(self, request: Request) -> Optional[str]:
        """Why it cannot answer ``request``, in words; None: it can."""
        ...
