"""A model behind OpenAI's ``/v1/completions``, as whoever evaluates asks it: `metaseq serve`, or another server.

    model = EndpointModel("http://127.0.0.1:6010")
    for index, answer in model.answer([Pair("The cat", " sat"), Prompt("Once", {"max_new_tokens": 8})]):

Texts are sent, since a tokenizer need not be here; tokens and the characters at which they begin come back
(``echo`` with ``logprobs``). A text must fit into what the server reads: it is refused, not cut. A few requests
are under way at once, of which the server makes batches (``http_client.py``).
"""

import math
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, Optional, Sequence
from urllib.parse import urlsplit

from metaseq_plugin.compat.errors import UserError, brief
from metaseq_plugin.evaluate.http_client import Client
from metaseq_plugin.evaluate.requests import (
    Answer,
    Pair,
    PairAnswer,
    Prompt,
    PromptAnswer,
    Request,
    Whole,
    WholeAnswer,
)
from metaseq_plugin.evaluate.token_rows import boundary

AT_ONCE = 8  # requests under way
# What ``OPT.generate`` calls an option, and the API.
NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_samples": "n"}
PASSED = ("temperature", "top_p", "top_k", "stop", "seed", "frequency_penalty", "presence_penalty")
WHOLE = "1 </s> before the text, not scored; a text in one piece, as the server reads it"


class EndpointModel:
    """A served model as a ``Model`` of evaluations.

    Args:
        url: of the server, with or without ``/v1``.
        key: what it asks for; None: nothing.
        model: which of its models; None: the only one.

    Raises:
        UserError: ``url`` is no address, the server does not answer, or has no such model.
    """

    def __init__(self, url: str, key: Optional[str] = None, model: Optional[str] = None) -> None:
        check_address(url)
        base = url.rstrip("/").removesuffix("/completions").removesuffix("/v1")
        self.client = Client(f"{base}/v1", key)
        card = chosen(self.client.get("models"), model, url)
        self.model = str(card["id"])
        self.about: Mapping[str, Any] = {
            "path": url,
            "checkpoint": self.model,
            "num_parameters": None,
            "dtype": None,
            "device": None,
            "fingerprint": None,
            "longest": card.get("max_model_len"),
            "whole": WHOLE,
        }

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """See ``requests.Model``.

        Raises:
            UserError: a text that is too long, a server that gives no log-probabilities, or none at all.
        """
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            pending = {pool.submit(self.ask, one): index for index, one in enumerate(requests)}
            for done in as_completed(pending):
                yield pending[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def ask(self, request: Request) -> Answer:
        if isinstance(request, Prompt):
            return self.continued(request)
        context, text = boundary(request) if isinstance(request, Pair) else ("", request.text)
        found = scored(self.completion(prompt=context + text, echo=True, logprobs=1, max_tokens=1,
            temperature=0), context + text, len(context))  # fmt: skip
        if isinstance(request, Whole):
            return WholeAnswer(found.log_likelihood, found.ntokens, 1)
        return found

    def continued(self, prompt: Prompt) -> PromptAnswer:
        unknown = sorted(prompt.options.keys() - {*NAMES, *PASSED})
        if unknown:
            raise UserError(
                f"An option must be one of {', '.join([*NAMES, *PASSED])} where a server is asked, but is "
                f"{unknown[0]}. Evaluate the model's files instead."
            )
        options = {NAMES.get(name, name): value for name, value in prompt.options.items()}
        answer = self.completion(prompt=prompt.text, **options)
        with reading("completions"):
            choices = sorted(answer["choices"], key=lambda one: one["index"])
            texts = tuple(choice["text"] for choice in choices)
        return PromptAnswer(texts)

    def completion(self, **fields: Any) -> Any:
        return self.client.post("completions", {"model": self.model, **fields})


def check_address(url: str) -> None:
    """Raises UserError for what cannot be asked."""
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and parts.port != 0 and url.isascii() and " " not in url
    except ValueError:
        is_good = False
    if not is_good:
        raise UserError(
            f"`--path` must be an address such as http://127.0.0.1:6010, but is {url}. Set host and port."
        )


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Where an answer's fields are looked up.

    Raises:
        UserError: one is not there, or of another kind.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError) as error:
        raise UserError(
            f"The server must answer `/v1/{path}` as OpenAI's API does, but does not ({brief(repr(error))}). "
            "Set the address of such an API."
        ) from error


def chosen(listed: Any, name: Optional[str], url: str) -> Mapping[str, Any]:
    """The entry of ``/v1/models`` that is meant."""
    with reading("models"):
        cards: dict[str, Mapping[str, Any]] = {str(card["id"]): card for card in listed["data"]}
    if name is None and len(cards) == 1:
        return next(iter(cards.values()))
    if name not in cards:
        raise UserError(
            f"`--served-model` must be one of {', '.join(cards) or 'the models'} of {url}, but is "
            f"{'not set' if name is None else name}. Set one of them."
        )
    return cards[name]


def scored(answer: Any, text: str, first: int) -> PairAnswer:
    """The answer to a pair from one with ``echo``; tokens behind ``text`` were written, and are not looked at.

    Args:
        first: the character of ``text`` at which what is scored begins.

    Raises:
        UserError: the server gives no log-probabilities, or none of a token that is wanted.
    """
    with reading("completions"):
        choice = answer["choices"][0]
        told = choice.get("logprobs")
        if not told or not told.get("token_logprobs") or not choice["text"].startswith(text):
            raise UserError(
                "The server must give prompts back with log-probabilities (`echo`, `logprobs`), but does not. "
                "Evaluate the model's files, or serve them with `metaseq serve`."
            )
        return scored_tokens(told, text, first)


def scored_tokens(told: Mapping[str, Any], text: str, first: int) -> PairAnswer:
    """As ``scored``, of the four lists of an answer's ``logprobs``."""
    begins, scores_of, tops_of = (
        list(told[name]) for name in ("text_offset", "token_logprobs", "top_logprobs")
    )
    size = len(told["tokens"][0])
    if scores_of[0] is None and not text.startswith(told["tokens"][0]) and size == begins[1]:
        # Some servers show the </s> that they put before the text, and count its letters.
        begins, scores_of, tops_of = [b - size for b in begins[1:]], scores_of[1:], tops_of[1:]
    # Tokens that share a character begin at it, and end where the next one does.
    ends = [next((b for b in begins[n:] if b > begin), len(text)) for n, begin in enumerate(begins)]
    wanted = [n for n, end in enumerate(ends) if begins[n] < len(text) and end > first]
    if not wanted:
        raise UserError(
            f"A continuation must have at least one token, but {text[first:]!r} has none. Leave its item out."
        )
    scores = [scores_of[n] for n in wanted]
    if None in scores or not all(map(math.isfinite, scores)):
        raise UserError(
            "The server must score every token of a text behind </s>, but does not score the first. "
            "Serve the model with `metaseq serve`."
        )
    tops = [tops_of[n] or {} for n in wanted]
    is_greedy = all(score >= max(top.values(), default=score) for score, top in zip(scores, tops))
    return PairAnswer(math.fsum(scores), len(wanted), is_greedy, begins[wanted[0]] < first)
