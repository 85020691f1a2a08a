"""How a batch's rows take their tokens: each by its own settings, all in a few calls a step.

Legend: R rows, V vocabulary, N random numbers, E ends of sentences, K alternatives told.

    sampler.join(settings, prompts, numbers, vocab)   # new rows, behind those there are
    choice = sampler.choose(logits)                   # a token per row
    sampler.keep([0, 2])                              # the other rows have left

A choice (1) divides the logits by each row's temperature, (2) notes what scores are told from: the
model's own distribution at that temperature, so that they say what it thinks however the choice is
bent; (3) blocks padding and an early ``</s>``, (4) adds bias and penalties (``shifts.py``), (5) takes
the tokens, of rows of one kind together: the likeliest, of all, or of the likeliest few, (6) counts
what was taken. What a row needs for it lies on the device, so that nothing is waited for.
"""

from typing import NamedTuple, Sequence, Union

import torch
from torch import Tensor
from torch.nn.functional import pad as widen

from metaseq_plugin.generation.sampling import LOOKS, enough_for, sample_all, sample_likeliest
from metaseq_plugin.generation.settings import Settings
from metaseq_plugin.generation.shifts import Shifts

FOR_EVER = 2**62  # more new tokens than any model writes


class Choice(NamedTuple):
    """What every row has got in one step."""

    tokens: Tensor  # (R,)
    # (R,) natural log-probabilities under softmax(logits / temperature), for the likeliest token under
    # softmax(logits), before anything is added, blocked or truncated. Where none are asked for, how far
    # the logit is below the largest. NaN or infinite where a logit is NaN or +inf; the token is then any.
    scores: Tensor
    top_tokens: Tensor  # (R, K) falling; of rows that ask for fewer, only the first are right
    top_scores: Tensor  # (R, K) as ``scores``


class Kind(NamedTuple):
    """How rows take a token; those of one kind are chosen for together."""

    look: int  # 0: at all tokens; 1: at the likeliest; else as ``sampling.sample_likeliest``
    is_sure: bool


class Needs(NamedTuple):
    """What any of the rows needs; what none does is left out of a step."""

    is_scaled: bool  # a temperature
    is_scored: bool  # true scores
    is_held: bool  # a minimum of new tokens
    is_decaying: bool  # a top-p that changes
    most_top: int  # so many alternatives


class Rules(NamedTuple):
    """The settings of all rows that a step needs, and how far each is, (R,) each."""

    temperature: Tensor  # 1 for greedy rows
    top_k: Tensor  # V for all
    top_p: Tensor  # fp64
    decay: Tensor  # fp64
    floor: Tensor  # fp64; 0 where top_p does not decay
    least: Tensor  # new tokens before </s> may come
    taken: Tensor  # new tokens so far
    since: Tensor  # of these, since the last end of a sentence


def rules_of(settings: Sequence[Settings], vocab: int, device: torch.device) -> Rules:
    """The rules of rows that have no new token yet."""

    def wide(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    def whole(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Rules(
        wide([1.0 if s.is_greedy else s.temperature for s in settings]).float(),
        whole([min(s.top_k or vocab, vocab) for s in settings]),
        wide([s.top_p for s in settings]),
        wide([s.top_p_decay for s in settings]),
        wide([s.top_p_floor if s.top_p_decay < 1 else 0.0 for s in settings]),
        whole([min(s.min_new_tokens, FOR_EVER) for s in settings]),
        whole([0] * len(settings)),
        whole([0] * len(settings)),
    )


class Sampler:
    """The rules of the rows of a batch.

    Attributes:
        settings: of each row, in order.
    """

    def __init__(self, pad: int, eos: int, device: torch.device) -> None:
        self.pad = pad
        self.eos = eos
        self.device = device
        self.vocab = 0
        self.settings: list[Settings] = []
        self.rules = rules_of([], 0, device)
        self.uniforms = torch.empty(0, 1, device=device)  # (R, N)
        self.ends = torch.empty(0, 0, dtype=torch.long, device=device)  # (R, E), filled up with -1
        self.shifts = Shifts(device, eos)
        self.needs = Needs(False, False, False, False, 0)
        self.groups: list[tuple[Kind, Tensor]] = []  # the numbers of each kind's rows
        self.listed = torch.empty(0, dtype=torch.long, device=device)  # rows that are told tops

    def join(
        self,
        settings: Sequence[Settings],
        prompts: Sequence[Sequence[int]],
        numbers: Sequence[Tensor],
        vocab: int,
    ) -> None:
        """Take in rows behind the present ones.

        Args:
            settings: one entry per row.
            prompts: one entry per row, token ids.
            numbers: (n, …) each, as ``sampling.uniform_numbers``, together one line per row; of rows
                that are greedy, (n, 0).
            vocab: V.
        """
        self.vocab = vocab
        self.shifts.join(len(self.settings), settings, prompts, vocab)
        arrived = rules_of(settings, vocab, self.device)
        self.rules = Rules(*(torch.cat(pair) for pair in zip(self.rules, arrived)))
        tables = [self.uniforms, *(table.to(self.device) for table in numbers)]
        longest = max(table.size(1) for table in tables)
        self.uniforms = torch.cat([widen(t, (0, longest - t.size(1))) for t in tables])
        most = max(self.ends.size(1), *(len(choice.sentence_ends) for choice in settings))
        ends = [[*s.sentence_ends, *[-1] * (most - len(s.sentence_ends))] for s in settings]
        present = widen(self.ends, (0, most - self.ends.size(1)), value=-1)
        self.ends = torch.cat([present, torch.tensor(ends, dtype=torch.long, device=self.device)])
        self.regroup([*self.settings, *settings])

    def keep(self, present: Sequence[int]) -> None:
        """Go on with the rows ``present`` only, renumbered in that order."""
        index = torch.tensor(present, dtype=torch.long, device=self.device)
        self.rules = Rules(*(part[index] for part in self.rules))
        self.uniforms, self.ends = self.uniforms[index], self.ends[index]
        self.shifts.keep(present)
        self.regroup([self.settings[row] for row in present])

    def regroup(self, settings: list[Settings]) -> None:
        """Work out on the host, once for many steps, which rows need what."""
        self.settings = settings
        members: dict[Kind, list[int]] = {}
        for row, choice in enumerate(settings):
            members.setdefault(self.kind_of(choice), []).append(row)
        self.groups = [
            (kind, torch.tensor(rows, device=self.device)) for kind, rows in members.items()
        ]
        self.needs = Needs(
            any(not choice.is_greedy and choice.temperature != 1 for choice in settings),
            any(choice.with_scores for choice in settings),
            any(choice.min_new_tokens for choice in settings),
            any(choice.top_p_decay < 1 for choice in settings),
            min(max((choice.num_top_scores for choice in settings), default=0), self.vocab),
        )
        listed = [row for row, choice in enumerate(settings) if choice.num_top_scores]
        self.listed = torch.tensor(listed, dtype=torch.long, device=self.device)

    def kind_of(self, settings: Settings) -> Kind:
        if settings.is_greedy:
            return Kind(1, True)
        if 0 < settings.top_k < self.vocab:
            return Kind(enough_for(settings.top_k, self.vocab), True)
        if settings.top_p >= 1 and settings.top_p_decay == 1:
            return Kind(0, True)
        if self.device.type == "cpu" and self.vocab > LOOKS[0]:
            return Kind(LOOKS[0], False)
        return Kind(self.vocab, True)

    def choose(self, logits: Tensor) -> Choice:
        """Take one token per row from ``logits`` (R, V) fp32, which are overwritten."""
        rules = self.rules
        if self.needs.is_scaled:
            logits = logits.div_(rules.temperature[:, None])
        normalizer = logits.logsumexp(-1) if self.needs.is_scored else logits.amax(-1)  # (R,)
        top_tokens, top_scores = self.likeliest(logits, normalizer)
        logits[:, self.pad] = -torch.inf
        if self.needs.is_held:
            logits[:, self.eos].masked_fill_(rules.taken < rules.least, -torch.inf)
        bent = self.shifts.add(logits, rules.temperature)
        last = self.uniforms.size(1) - 1  # a finished row has no more numbers
        uniforms = self.uniforms.gather(1, rules.taken[:, None].clamp(max=last))[:, 0]
        tokens = torch.empty_like(rules.taken)
        for kind, place in self.groups:
            rows = slice(None) if len(self.groups) == 1 else place
            tokens[rows] = self.take(kind, bent[rows], uniforms[rows], rows)
        self.count(tokens)
        scores = logits.gather(1, tokens[:, None])[:, 0] - normalizer
        return Choice(tokens, scores, top_tokens, top_scores)

    def likeliest(self, logits: Tensor, normalizer: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest tokens of the rows that are told them, and their scores, (R, K) each."""
        most = self.needs.most_top
        tokens = self.rules.taken.new_zeros(len(logits), most)
        scores = logits.new_zeros(len(logits), most)
        if most:
            found = logits[self.listed].topk(most)
            tokens[self.listed] = found.indices
            scores[self.listed] = found.values - normalizer[self.listed, None]
        return tokens, scores

    def take(
        self, kind: Kind, logits: Tensor, uniforms: Tensor, rows: Union[slice, Tensor]
    ) -> Tensor:
        """One token for each of ``rows``, which are of one kind and whose logits and numbers these are."""
        if kind.look == 1:
            return logits.argmax(-1)
        if kind.look == 0:
            return sample_all(logits, uniforms)
        top_p = self.rules.top_p * self.rules.decay**self.rules.since
        top_p = top_p.maximum(self.rules.floor)[rows]
        return sample_likeliest(logits, uniforms, self.rules.top_k[rows], top_p, *kind)

    def count(self, tokens: Tensor) -> None:
        """Note what every row has got, (R,)."""
        self.rules.taken.add_(1)
        if self.needs.is_decaying:
            is_end = (tokens[:, None] == self.ends).any(-1)
            self.rules.since.add_(1).masked_fill_(is_end, 0)
        self.shifts.count(tokens)
