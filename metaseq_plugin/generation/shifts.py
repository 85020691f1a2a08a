"""What is added to a row's logits before its token is chosen: bias, and penalties of repetition.

    logit of token v += bias(v)
                        − new(v) · frequency_penalty    − [new(v) > 0] · presence_penalty
                        − prompt(v) · prompt_frequency… − [prompt(v) > 0] · prompt_presence…

new(v) and prompt(v) are how often the row's new tokens and its prompt hold v; the ``</s>`` that every
prompt begins with is not counted. As in OpenAI's service, penalties are taken off the logits, before
the temperature divides them.

Legend: R rows of the batch, S of them that ask for a shift, V vocabulary.

A row's sum is kept and only the token it has just got is worked out anew, so that a step costs one
addition over the vocabulary; rows that ask for nothing have no part in any of it.
"""

from typing import Sequence

import torch
from torch import Tensor

from metaseq_plugin.generation.settings import Settings


class Shifts:
    """The shifts of a batch's rows.

    Attributes:
        rows: numbers of the rows that ask for a shift, rising.
    """

    def __init__(self, device: torch.device, eos: int) -> None:
        self.device = device
        self.eos = eos
        self.rows: list[int] = []
        self.places = torch.empty(0, dtype=torch.long, device=device)  # (S,) the same
        self.fixed = torch.empty(0, 0, device=device)  # (S, V) bias and the prompt's penalties
        self.counts = self.fixed  # (S, V) new(v)
        self.sums = self.fixed  # (S, V) all together
        self.penalties = torch.empty(0, 2, device=device)  # (S, 2) frequency, presence

    def join(
        self, first: int, settings: Sequence[Settings], prompts: Sequence[Sequence[int]], vocab: int
    ) -> None:
        """Take in the rows from number ``first`` on that ask for a shift."""
        asking = [index for index, choice in enumerate(settings) if choice.is_shifted]
        if not asking:
            return
        known: dict[tuple[int, int], Tensor] = {}  # a request's samples have one in common
        for i in asking:
            if (id(settings[i]), id(prompts[i])) not in known:
                fixed = self.fixed_of(settings[i], prompts[i], vocab)
                known[id(settings[i]), id(prompts[i])] = fixed
        fixed = torch.stack([known[id(settings[i]), id(prompts[i])] for i in asking])
        penalties = [[settings[i].frequency_penalty, settings[i].presence_penalty] for i in asking]
        self.penalties = torch.cat([self.penalties, torch.tensor(penalties, device=self.device)])
        self.fixed = torch.cat([self.fixed.view(-1, vocab), fixed])
        self.counts = torch.cat([self.counts.view(-1, vocab), torch.zeros_like(fixed)])
        self.sums = torch.cat([self.sums.view(-1, vocab), fixed])
        self.rows = [*self.rows, *(first + index for index in asking)]
        self.places = torch.tensor(self.rows, device=self.device)

    def fixed_of(self, settings: Settings, prompt: Sequence[int], vocab: int) -> Tensor:
        """What is added whatever the new tokens are, (V,)."""
        counted = list(prompt[1:] if prompt[0] == self.eos else prompt)
        counts = torch.tensor(counted, dtype=torch.long).bincount(minlength=vocab).float()
        fixed = -settings.prompt_frequency_penalty * counts
        fixed -= settings.prompt_presence_penalty * (counts > 0)
        tokens, biases = zip(*settings.logit_bias) if settings.logit_bias else ((), ())
        fixed[list(tokens)] += torch.tensor(biases)  # each token once
        return fixed.to(self.device)

    def keep(self, present: Sequence[int]) -> None:
        """Go on with the batch's rows ``present`` only, renumbered in that order."""
        if not self.rows:
            return
        number = {row: place for place, row in enumerate(self.rows)}
        kept = [number[row] for row in present if row in number]
        index = torch.tensor(kept, dtype=torch.long, device=self.device)
        self.fixed, self.counts, self.sums, self.penalties = (
            part[index] for part in (self.fixed, self.counts, self.sums, self.penalties)
        )
        self.rows = [new for new, row in enumerate(present) if row in number]
        self.places = torch.tensor(self.rows, dtype=torch.long, device=self.device)

    def add(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """``logits`` (R, V), which are divided by ``temperature`` (R,) already, with the shifts."""
        if not self.rows:
            return logits
        if len(self.rows) == len(logits):
            return torch.addcdiv(logits, self.sums, temperature[:, None])
        return logits.index_add(0, self.places, self.sums / temperature[self.places, None])

    def count(self, tokens: Tensor) -> None:
        """Note what every row of the batch has got, (R,)."""
        if not self.rows:
            return
        got = tokens[self.places, None]  # (S, 1)
        counts = self.counts.gather(1, got) + 1
        self.counts.scatter_(1, got, counts)
        penalty = self.penalties[:, :1] * counts + self.penalties[:, 1:]
        self.sums.scatter_(1, got, self.fixed.gather(1, got) - penalty)
