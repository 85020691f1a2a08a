"""From what was asked for to the engine's jobs: token ids, settings and limits, all checked against the model.

Both kinds of requests become one ``Wanted``; ``plan`` refuses what the model or the server cannot do, in the
words of the request it came from, and never shortens a prompt.
"""

from dataclasses import replace
from typing import Mapping, NamedTuple, Optional, Sequence, Union

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.batch import Request
from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.generation.sampling import count_repeats
from metaseq_plugin.generation.settings import Settings, check_settings
from metaseq_plugin.generation.stopping import StopTexts
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.choices import Shown
from metaseq_plugin.serve.errors import ApiError

# Of one answer: each takes some hundred bytes until it is sent.
MAX_TOLD = 2**20

Prompts = Union[str, list[str], list[int], list[list[int]]]


class Wanted(NamedTuple):
    """A request, whoever's words it came in."""

    prompt: Prompts
    max_tokens: Optional[int]  # None: as many as the model reads
    n: int
    best_of: int  # 0: n
    echo: bool
    with_bos: bool  # echo the leading </s> too
    logprobs: Optional[int]
    stops: Sequence[str]
    settings: Settings  # its sampling; the numbers of samples and scores are set by ``plan``
    spelled: Mapping[str, str]  # field of ``Settings`` -> what the request calls it


class Plan(NamedTuple):
    """The jobs of a request, one a prompt."""

    requests: list[Request]
    shown: list[Shown]  # per prompt
    stops: Sequence[str]
    n: int  # choices per prompt
    copies: int  # choices that each sample stands for: at temperature 0 all are equal
    only_scores: bool  # no new token is wanted

    @property
    def samples(self) -> int:
        """Per prompt."""
        return self.requests[0].settings.num_samples

    @property
    def is_ranked(self) -> bool:
        """Whether more samples are drawn than are given."""
        return self.samples * self.copies > self.n


def as_list(prompt: Prompts) -> Sequence[Union[str, list[int]]]:
    """A request's prompts as a list of them."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    return prompt


def plan(wanted: Wanted, opt: OPT, engine: Engine) -> Plan:
    """The jobs of a request.

    Raises:
        ApiError, UserError: what cannot be done, and what to set.
    """
    prompts = as_list(wanted.prompt)
    if len(prompts) > engine.max_waiting:
        raise ApiError(
            400,
            f"`prompt` must hold at most {engine.max_waiting} prompts (`--max-waiting`), but holds "
            f"{len(prompts)}. Send fewer at once.",
            "prompt",
        )
    rows = rows_of(opt, prompts)
    settings, copies = sampling(wanted, opt)
    limits = [limit_of(wanted, opt, row) for row in rows]
    stop = StopTexts(wanted.stops, opt.decode) if wanted.stops else None
    requests = [
        Request(row, max(1, limit), settings, repeat, stop, streamed=True)
        for row, limit, repeat in zip(rows, limits, count_repeats(rows))
    ]
    for request in requests:
        check_room(request, engine, wanted.spelled)
    check_told(wanted, requests, copies)
    shown = [
        Shown(
            wanted.logprobs is not None,
            echo_from(wanted, prompt, row) if wanted.echo else None,
            prompt if isinstance(prompt, str) else None,
        )
        for prompt, row in zip(prompts, rows)
    ]
    return Plan(requests, shown, wanted.stops, wanted.n, copies, wanted.max_tokens == 0)


def rows_of(opt: OPT, prompts: Sequence[Union[str, list[int]]]) -> list[list[int]]:
    """Token ids of each prompt behind one ``</s>``.

    Raises:
        ApiError: the model cannot read one.
    """
    longest = opt.generator.longest
    try:
        ids = [opt.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        rows = [row or [opt.generator.eos] for row in opt.generator.begun(ids)]
        too_long = [number for number, row in enumerate(rows) if len(row) > longest]
        if not too_long:
            opt.generator.check_prompts(rows)
            return rows
    except UserError as error:
        raise ApiError(400, str(error), "prompt") from error
    raise ApiError(
        400,
        f"`prompt` must have at most {longest} tokens with its leading </s>, but prompt {too_long[0]} "
        f"has {len(rows[too_long[0]])}. Shorten it.",
        "prompt",
        "context_length_exceeded",
    )


def limit_of(wanted: Wanted, opt: OPT, row: Sequence[int]) -> int:
    """Most new tokens behind ``row``; the last of them is not read."""
    room = opt.generator.longest + 1 - len(row)
    if wanted.max_tokens is None:
        return room
    if wanted.max_tokens > room:
        raise ApiError(
            400,
            f"`max_tokens` must be at most {room} behind a prompt of {len(row)} tokens, for the model "
            f"reads {opt.generator.longest}, but is {wanted.max_tokens}. Set {room} or less, or "
            "shorten the prompt.",
            "max_tokens",
            "context_length_exceeded",
        )
    return wanted.max_tokens


def sampling(wanted: Wanted, opt: OPT) -> tuple[Settings, int]:
    """The settings of every job, checked, and how many choices each sample stands for."""
    best_of = wanted.best_of or wanted.n
    if best_of < wanted.n:
        raise UserError(
            f"`best_of` must be at least `n` ({wanted.n}), but is {best_of}. Set {wanted.n} or more."
        )
    is_greedy = wanted.settings.is_greedy
    has_logprobs = wanted.logprobs is not None
    settings = replace(
        wanted.settings,
        num_samples=1 if is_greedy else best_of,
        with_scores=has_logprobs or best_of > wanted.n,
        with_prompt_scores=has_logprobs and wanted.echo,
        num_top_scores=wanted.logprobs or 0,
    )
    most = opt.generator.longest if wanted.max_tokens is None else max(1, wanted.max_tokens)
    check_settings(settings, most, wanted.spelled, len(opt.dictionary))
    return settings, wanted.n if is_greedy else 1


def check_room(request: Request, engine: Engine, spelled: Mapping[str, str]) -> None:
    """Refuse a job that would never fit into the batch."""
    samples = request.settings.num_samples
    if samples > engine.max_batch_rows:
        raise UserError(
            f"`{spelled['num_samples']}` and `best_of` must be at most {engine.max_batch_rows}, the rows "
            f"of a batch, but are {samples}. Send several requests."
        )
    tokens = engine.batch.cost(request)
    if tokens > engine.max_batch_tokens:
        raise UserError(
            f"`max_tokens` must keep the request within {engine.max_batch_tokens} tokens "
            f"(`--max-batch-tokens`), but {samples} times {len(request.prompt)} of the prompt and "
            f"{request.limit} new ones take {tokens}. Ask for fewer samples or tokens."
        )


def check_told(wanted: Wanted, requests: Sequence[Request], copies: int) -> None:
    """Refuse an answer of more log-probabilities than memory should be spent on."""
    if wanted.logprobs is None:
        return
    choices = copies * requests[0].settings.num_samples
    tokens = sum(
        choices * (request.limit + wanted.echo * len(request.prompt)) for request in requests
    )
    told = tokens * (1 + wanted.logprobs)
    if told > MAX_TOLD:
        raise UserError(
            f"`logprobs` must keep the answer within {MAX_TOLD:,} log-probabilities, but {1 + wanted.logprobs} "
            f"for each of {tokens:,} tokens are {told:,}. Ask for fewer, or send several requests."
        )


def echo_from(wanted: Wanted, prompt: Union[str, list[int]], row: Sequence[int]) -> int:
    """The first token of ``row`` that the client sent, or wants to see."""
    sent = len(prompt) if not isinstance(prompt, str) else len(row) - 1
    return 0 if wanted.with_bos else len(row) - sent
