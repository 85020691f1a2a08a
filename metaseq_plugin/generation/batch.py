"""Rows that are continued together, one token a step; they may join and leave at any step.

    batch = Batch(models, pad, eos)
    rows = batch.admit([Request([2, 31414, 232], 20, Settings(temperature=0.0))])
    while batch.rows:
        for new in batch.step():
            print(new.row.request.prompt, new.token, new.row.finish_reason)

Legend: P prompts admitted together, n samples per prompt, R rows, V vocabulary.

What a prompt is continued with depends neither on the other rows nor on when it was admitted: a row reads
its own slot of the cache only, and random numbers belong to a prompt (``sampling.py``). A step (1) lets the
models read what the step before chose, (2) chooses a token for every row by its own settings
(``sampler.py``), (3) asks which rows have finished; these leave. Rows stand in the order of the caches,
which changes when some join or leave.
"""

import math
import secrets
from dataclasses import dataclass, field
from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from metaseq_plugin.generation.decoding import Decoding
from metaseq_plugin.generation.finite import not_finite
from metaseq_plugin.generation.sampler import Choice, Sampler
from metaseq_plugin.generation.sampling import uniform_numbers
from metaseq_plugin.generation.scoring import Scores
from metaseq_plugin.generation.settings import Settings, TopScores
from metaseq_plugin.generation.stopping import StopRule, Watch
from metaseq_plugin.models.opt import OPTLanguageModel

# Asking an accelerator what it chose makes the host wait for it. A CPU is asked always, and so is an
# accelerator while a row is streamed or has a stop rule.
STEPS_BETWEEN_QUESTIONS = 8


class Request(NamedTuple):
    """A prompt to be continued, in its own way."""

    prompt: Sequence[int]  # token ids, the leading </s> included
    limit: int  # most new tokens; capped so that the models can read them
    settings: Settings  # for sampling: ``beam`` is 1
    repeat: int = 0  # how many equal prompts, whose samples must differ, came before
    stop: Optional[StopRule] = None  # gives each row the watch that is asked after each new token
    streamed: bool = False  # whether each token is wanted at once

    def numbers(self, limit: int) -> Tensor:
        """The random numbers of its samples, (n, limit), or none where nothing is left to chance."""
        settings = self.settings
        if settings.is_greedy:
            return torch.empty(settings.num_samples, 0)
        seed = secrets.randbits(63) if settings.seed is None else settings.seed
        return uniform_numbers(seed, self.prompt, self.repeat, settings.num_samples, limit)


@dataclass(eq=False)
class Row:
    """One sample of a request, and what is known of it so far."""

    request: Request
    limit: int
    prompt_scores: list[float]  # of the prompt's tokens after the first, where asked for
    prompt_top_scores: list[TopScores]  # beside each of them, where asked for
    tokens: list[int] = field(default_factory=list)  # new ones, with the </s> that ended it
    scores: list[float] = field(default_factory=list)  # of each, where asked for
    top_scores: list[TopScores] = field(default_factory=list)  # beside each score, where asked for
    finish_reason: Optional[str] = None  # "eos", "stop", "length", "cancelled", "failed"
    watch: Optional[Watch] = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        self.watch = request.stop and request.stop(request.prompt, request.settings.min_new_tokens)

    def take(self, token: int, score: float, top: TopScores, eos: int) -> "News":
        """Append a new token, of which as much is kept as is asked for, and find out whether it is the last."""
        settings = self.request.settings
        self.tokens.append(token)
        if settings.with_scores:
            self.scores.append(score)
        told = top[: settings.num_top_scores]
        if told:
            self.top_scores.append(told)
        if token == eos:
            self.finish_reason = "eos"
        elif self.watch is not None and self.watch(token):
            self.finish_reason = "stop"
        elif len(self.tokens) == self.limit:
            self.finish_reason = "length"
        return News(self, token, score if settings.with_scores else None, told)

    def remaining(self) -> int:
        """How many more tokens it may get."""
        return self.limit - len(self.tokens) if self.finish_reason is None else 0


class News(NamedTuple):
    """A token that a row has got; ``row.finish_reason`` says whether it is the row's last."""

    row: Row
    token: int
    score: Optional[float]  # natural log-probability, where the row's settings ask for it
    top_scores: TopScores  # the likeliest tokens, as many as the row's settings ask for


class Batch:
    """The rows under way.

    Args:
        max_tokens: for how many tokens of keys and values to hold memory, as long as the ``cost`` of the
            requests under way is no more. None: for up to twice the most they have cost so far.

    Attributes:
        rows: those that go on, and finished ones that have not left yet; empty when all have finished.
    """

    def __init__(
        self,
        models: Sequence[OPTLanguageModel],
        pad: int,
        eos: int,
        max_tokens: Optional[int] = None,
    ) -> None:
        self.pad = pad
        self.eos = eos
        self.models = models
        self.max_tokens = max_tokens
        self.device = models[0].output_weight.device
        self.patience = 1 if self.device.type == "cpu" else STEPS_BETWEEN_QUESTIONS
        self.clear()

    def clear(self) -> None:
        """Forget all rows, whatever state a step that failed has left."""
        self.decoding = Decoding(self.models, self.pad, self.max_tokens)
        self.rows: list[Row] = []
        nothing = torch.empty(0, dtype=torch.long, device=self.device)
        self.last = nothing  # (R,) tokens chosen last
        self.logits: Optional[Tensor] = None  # (R, V) of the next; None: ``last`` is not read yet
        self.sampler = Sampler(self.pad, self.eos, self.device)
        self.unread: list[Choice] = []  # step by step
        self.news: list[News] = []

    def cost(self, request: Request) -> int:
        """Tokens whose keys and values are kept for a request while it is under way, all samples together.

        At most twice its prompt and limit, or a few more than them; of ``decoding.bytes_per_token`` each.
        """
        samples = request.settings.num_samples
        return self.decoding.cost(request.prompt, request.limit, samples)

    @torch.inference_mode()
    def admit(self, requests: Sequence[Request]) -> list[Row]:
        """Read the prompts, those of similar length together; their rows, ``num_samples`` per request in order.

        Prompts must have passed ``Generator.check_prompts``, settings ``check_settings``. Where this
        fails, the other rows are as they were.
        """
        self.read()
        if self.rows:
            self.advance()
        prompts = [request.prompt for request in requests]
        limits = [self.decoding.limit(r.prompt, r.limit) for r in requests]
        samples = [request.settings.num_samples for request in requests]
        numbers = [request.numbers(limit) for request, limit in zip(requests, limits)]
        logits, scores, order = self.decoding.admit(
            prompts,
            # The last new token is not read.
            [len(prompt) + limit - 1 for prompt, limit in zip(prompts, limits)],
            samples,
            any(request.settings.with_prompt_scores for request in requests),
            max(r.settings.num_top_scores * r.settings.with_prompt_scores for r in requests),
        )
        origin = [number for number, n in enumerate(samples) for _ in range(n)]  # (R',)
        if len(origin) > len(prompts):
            logits = logits[torch.tensor(origin, device=self.device)]
        rows = []
        for number in origin:
            settings = requests[number].settings
            wanted = Scores([], [])
            if settings.with_prompt_scores:
                wanted = scores[number].first(settings.num_top_scores)
            rows.append(Row(requests[number], limits[number], *wanted))
        self.join(rows, logits, numbers)
        self.arrange(order)
        return rows

    def join(self, rows: list[Row], logits: Tensor, numbers: list[Tensor]) -> None:
        """Take ``rows`` in, R' of them: their logits (R', V) and random numbers, (n, …) each."""
        self.logits = logits if self.logits is None else torch.cat([self.logits, logits])
        self.rows = self.rows + rows
        self.last = torch.full((len(self.rows),), self.pad, device=self.device)
        settings, prompts = zip(*((r.request.settings, r.request.prompt) for r in rows))
        self.sampler.join(settings, prompts, numbers, logits.size(-1))

    @torch.inference_mode()
    def step(self) -> list[News]:
        """Choose a token for every row; what has become known since the last call, in order.

        That is one token per row that goes on, each time on a CPU or while a row is streamed or has a
        stop rule; else several at once after several steps.

        Raises:
            NotFinite: the logits of its ``rows`` are not finite. The others go on with the next step,
                which tells what they have got.
        """
        if not any(row.remaining() for row in self.rows):
            self.read()
            news, self.news = self.news, []
            return news
        self.advance()
        self.choose()
        is_watched = any(row.request.streamed or row.request.stop is not None for row in self.rows)
        most = max(row.remaining() for row in self.rows)
        if is_watched or len(self.unread) >= min(self.patience, most):
            self.read()
        news, self.news = self.news, []
        return news

    @torch.inference_mode()
    def cancel(self, row: Row) -> None:
        """Continue ``row`` no further; it keeps what it has got."""
        if row.finish_reason is None:
            row.finish_reason = "cancelled"
            if not self.unread:
                self.dismiss()

    def advance(self) -> None:
        """Let the models read the tokens chosen last, unless they have."""
        if self.logits is None:
            self.logits = self.decoding.step(self.last)

    def choose(self) -> None:
        """Take the next token of every row, finished ones included: what they get is not looked at."""
        assert self.logits is not None
        choice = self.sampler.choose(self.logits)
        self.last = choice.tokens
        self.unread.append(choice)
        self.logits = None

    def read(self) -> None:
        """Bring what was chosen to the host, and let rows go that it has finished."""
        if not self.unread:
            return
        columns = [torch.stack(column).tolist() for column in zip(*self.unread)]
        self.unread = []
        broken = []
        for step in zip(*columns):
            for row, token, score, top_tokens, top_scores in zip(self.rows, *step):
                if row.finish_reason is None and not math.isfinite(score):
                    row.finish_reason = "failed"
                    broken.append(row)
                elif row.finish_reason is None:
                    top = list(zip(top_tokens, top_scores))
                    self.news.append(row.take(token, score, top, self.eos))
        self.dismiss()
        if broken:
            raise not_finite(self.decoding.models, broken)

    def dismiss(self) -> None:
        """Let finished rows leave."""
        present = [index for index, row in enumerate(self.rows) if row.finish_reason is None]
        if len(present) < len(self.rows):
            self.arrange(self.decoding.keep(present))

    def arrange(self, order: list[int]) -> None:
        """Go on with the rows of ``order``, in this order."""
        if order == list(range(len(self.rows))):
            return
        self.rows = [self.rows[index] for index in order]
        places = torch.tensor(order, dtype=torch.long, device=self.device)
        self.last = self.last[places]
        self.sampler.keep(order)
        self.logits = None if self.logits is None or not order else self.logits[places]
