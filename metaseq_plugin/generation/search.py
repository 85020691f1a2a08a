"""The two ways to continue a batch of prompts: one token at a time, or by beam search.

Legend: P prompts, n samples per prompt or hypotheses per beam, R rows = P × n, V vocabulary.

Rows do not influence each other. A finished row is given padding until half of the rows have
finished; then the others go on alone.
"""

from typing import Callable, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from metaseq_plugin.generation.decoding import Decoding
from metaseq_plugin.generation.sampling import choose, uniform_numbers
from metaseq_plugin.generation.settings import Settings

# Asking an accelerator which rows have finished makes the host wait for it; a CPU is asked always.
STEPS_BETWEEN_QUESTIONS = 8


class Hypothesis(NamedTuple):
    """One continuation."""

    tokens: list[int]  # new tokens, with the </s> that ended it, if one did
    scores: list[float]  # natural log-probability of each; empty where none were asked for
    rank: float  # what hypotheses are compared by; 0 without scores
    finish_reason: str  # "eos", "length", or "stop"


# Told the new tokens of a row, whether the row is to stop here.
StopRule = Callable[[list[int]], bool]


class Problem(NamedTuple):
    """What both searches start from."""

    decoding: Decoding
    prompts: Sequence[Sequence[int]]
    repeats: Sequence[int]  # per prompt, how many equal ones came before it
    limits: Sequence[int]  # most new tokens, per prompt
    settings: Settings
    pad: int
    eos: int
    logits: Tensor  # (P, V) of the first new token
    capacity: int  # longest row in tokens, padding included

    def blocked(self, step: int) -> list[int]:
        """Tokens that must not be taken as new token number ``step``."""
        return [self.pad, self.eos] if step < self.settings.min_new_tokens else [self.pad]


def sample_rows(problem: Problem, seed: int, stop: Optional[StopRule]) -> list[list[Hypothesis]]:
    """Sample, or at temperature 0 take the likeliest tokens: ``num_samples`` per prompt, in order."""
    settings, decoding, pad = problem.settings, problem.decoding, problem.pad
    logits, device = problem.logits, problem.logits.device
    n = settings.num_samples
    origin = torch.arange(len(problem.prompts), device=device).repeat_interleave(n)  # (R,)
    if n > 1:
        decoding.select(origin, problem.capacity)
        logits = logits[origin]
    uniforms = None
    if not settings.is_greedy:
        numbers = uniform_numbers(seed, problem.prompts, problem.repeats, n, problem.limits)
        uniforms = numbers.to(device)  # (R, steps)
    limits = torch.tensor(problem.limits, device=device)[origin]
    num_steps = max(problem.limits)
    tokens = torch.full((len(origin), num_steps), pad, device=device)
    scores = torch.zeros((len(origin), num_steps), device=device)
    stopped: set[int] = set()
    rows = torch.arange(len(origin), device=device)  # which row of `tokens` each present row is
    done = torch.zeros(len(origin), dtype=torch.bool, device=device)
    for step in range(num_steps):
        noise = None if uniforms is None else uniforms[rows, step]
        choice = choose(
            logits, problem.blocked(step), settings.temperature, settings.top_k, settings.top_p,
            noise, settings.with_scores,
        )  # fmt: skip
        new = choice.tokens.masked_fill_(done, pad)
        tokens[rows, step] = new
        if choice.scores is not None:
            scores[rows, step] = choice.scores
        done = done | (new == problem.eos) | (limits[rows] <= step + 1)
        if stop is not None:
            for index, row in enumerate(rows.tolist()):
                if not done[index] and stop(tokens[row, : step + 1].tolist()):
                    stopped.add(row)
                    done[index] = True
        if device.type == "cpu" or (step + 1) % STEPS_BETWEEN_QUESTIONS == 0:
            present = (~done).nonzero()[:, 0]
            if len(present) == 0:
                break
            if 2 * len(present) <= len(rows):
                decoding.select(present)
                rows, new, done = rows[present], new[present], done[present]
        if step + 1 < num_steps:
            logits = decoding.step(new.masked_fill(done, pad))
    return collect(problem, tokens, scores, stopped)


def collect(
    problem: Problem, tokens: Tensor, scores: Tensor, stopped: set[int]
) -> list[list[Hypothesis]]:
    """Rows of (R, steps) as hypotheses, ``num_samples`` per prompt."""
    settings = problem.settings
    lengths = (tokens != problem.pad).sum(1).tolist()  # padding is never chosen
    found = []
    for row, (ids, values, length) in enumerate(zip(tokens.tolist(), scores.tolist(), lengths)):
        reason = "eos" if ids[length - 1] == problem.eos else "length"
        kept = values[:length] if settings.with_scores else []
        rank = settings.rank(sum(kept), length)
        reason = "stop" if row in stopped else reason
        found.append(Hypothesis(ids[:length], kept, rank, reason))
    n = settings.num_samples
    return [found[start : start + n] for start in range(0, len(found), n)]


class Node(NamedTuple):
    """The end of a hypothesis that is still growing; ``parent`` leads to its beginning."""

    token: int
    score: float
    parent: Optional["Node"]

    def hypothesis(self, settings: Settings, reason: str) -> Hypothesis:
        tokens, scores = [], []
        node: Optional[Node] = self
        while node is not None:
            tokens.append(node.token)
            scores.append(node.score)
            node = node.parent
        rank = settings.rank(sum(scores), len(tokens))
        return Hypothesis(tokens[::-1], scores[::-1], rank, reason)


class Sentence:
    """One prompt's beam.

    As in fairseq: of the 2 × beam best extensions, those that end with ``</s>`` and are among the
    first ``beam`` are finished, the best ``beam`` others go on; the search of a prompt ends with
    ``beam`` finished hypotheses or at its maximal length, where the others are finished too.
    """

    def __init__(self, number: int, limit: int, settings: Settings) -> None:
        self.number = number
        self.limit = limit
        self.settings = settings
        self.growing: list[Optional[Node]] = [None]
        self.totals = [0.0]
        self.finished: list[Hypothesis] = []

    def extend(self, totals: list[float], columns: list[int], vocab: int, eos: int) -> list[int]:
        """Take the best extensions, falling; the beams of this sentence that the new ones grow from."""
        beam = self.settings.beam
        nodes: list[Optional[Node]] = []
        new_totals: list[float] = []
        origins: list[int] = []
        for place, (total, column) in enumerate(zip(totals, columns)):
            origin, token = divmod(column, vocab)
            if total == -torch.inf or len(nodes) == beam:
                break
            node = Node(token, total - self.totals[origin], self.growing[origin])
            if token != eos:
                nodes.append(node)
                new_totals.append(total)
                origins.append(origin)
            elif place < beam:
                self.finished.append(node.hypothesis(self.settings, "eos"))
        missing = beam - len(nodes)  # fewer extensions than beams: the rest grows from nothing
        self.growing = nodes + [None] * missing
        self.totals = new_totals + [-torch.inf] * missing
        return origins + [0] * missing

    def is_done(self, length: int) -> bool:
        """Whether the search ends with hypotheses of ``length`` tokens; finishes them if so."""
        if len(self.finished) < self.settings.beam and length < self.limit:
            return False
        if length >= self.limit:
            self.finished += [
                node.hypothesis(self.settings, "length") for node in self.growing if node
            ]
        return True

    def best(self) -> list[Hypothesis]:
        ranked = sorted(self.finished, key=lambda hypothesis: hypothesis.rank, reverse=True)
        return ranked[: self.settings.beam]


def search_beams(problem: Problem) -> list[list[Hypothesis]]:
    """Beam search: per prompt up to ``beam`` hypotheses, best first."""
    settings, decoding = problem.settings, problem.decoding
    logits, device, beam = problem.logits, problem.logits.device, settings.beam
    vocab = logits.size(-1)
    shared = max(map(len, problem.prompts))  # tokens that all beams of a sentence have in common
    sentences = [Sentence(i, limit, settings) for i, limit in enumerate(problem.limits)]
    searching = sentences
    for step in range(max(problem.limits)):
        log_probs = (logits / settings.temperature).log_softmax(-1)
        log_probs[:, problem.blocked(step)] = -torch.inf
        before = torch.tensor([s.totals for s in searching], device=device)  # (P', beams)
        totals = log_probs.view(len(searching), -1, vocab) + before[:, :, None]
        totals = totals.flatten(1)  # (P', beams·V)
        best, columns = totals.topk(min(2 * beam, totals.size(1)))  # (P', 2·beam)
        new_rows: list[int] = []
        still: list[Sentence] = []
        for index, sentence in enumerate(searching):
            beams = len(sentence.totals)
            origins = sentence.extend(
                best[index].tolist(), columns[index].tolist(), vocab, problem.eos
            )
            if not sentence.is_done(step + 1):
                still.append(sentence)
                new_rows += [index * beams + origin for origin in origins]
        if not still:
            break
        rows = torch.tensor(new_rows, device=device)
        if step > 0 and len(still) == len(searching):  # the same sentences, their beams rearranged
            decoding.reorder(rows, shared)
        else:
            decoding.select(rows, problem.capacity)
        searching = still
        last = [node.token if node else problem.pad for s in searching for node in s.growing]
        logits = decoding.step(torch.tensor(last, device=device))
    return [sentence.best() for sentence in sentences]
