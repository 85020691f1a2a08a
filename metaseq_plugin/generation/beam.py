"""Beam search over a batch of prompts.

Legend: P prompts still searched, R rows = P × beam, V vocabulary.

Each step (1) scores every extension of every beam, (2) lets each prompt's ``Sentence`` take the best,
(3) rearranges the models' caches so that row r holds what beam r now grows from.
"""

from typing import NamedTuple, Optional, Sequence

import torch

from metaseq_plugin.generation.decoding import Decoding
from metaseq_plugin.generation.finite import check_scores
from metaseq_plugin.generation.settings import Continuations, Hypothesis, Settings
from metaseq_plugin.models.opt import OPTLanguageModel


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
        return Hypothesis(tokens[::-1], scores[::-1], rank, reason, [])


class Sentence:
    """One prompt's beam.

    As in fairseq: of the 2 × beam best extensions, those that end with ``</s>`` and are among the
    first ``beam`` are finished, the best ``beam`` others go on; the search of a prompt ends with
    ``beam`` finished hypotheses or at its maximal length, where the others are finished too.
    """

    def __init__(self, limit: int, settings: Settings) -> None:
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


def search_beams(
    models: Sequence[OPTLanguageModel],
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    settings: Settings,
    pad: int,
    eos: int,
) -> list[Continuations]:
    """Per prompt up to ``beam`` hypotheses, best first.

    Args:
        limits: most new tokens, per prompt; capped so that the models can read them.
    """
    decoding, beam = Decoding(models, pad), settings.beam
    limits = [decoding.limit(prompt, limit) for prompt, limit in zip(prompts, limits)]
    shared = min(len(decoding.document(prompt)) for prompt in prompts)
    room = min(
        max(map(len, prompts)) + max(limits), decoding.longest
    )  # equal, so that rows keep their order
    logits, prompt_scores, _ = decoding.admit(
        prompts, [room] * len(prompts), [beam] * len(prompts), settings.with_prompt_scores
    )
    device, vocab = logits.device, logits.size(-1)
    sentences = [Sentence(limit, settings) for limit in limits]
    searching = sentences
    for step in range(max(limits)):
        log_probs = (logits / settings.temperature).log_softmax(-1)
        log_probs[:, pad] = -torch.inf
        if step < settings.min_new_tokens:
            log_probs[:, eos] = -torch.inf
        before = torch.tensor([s.totals for s in searching], device=device)  # (P, beams)
        totals = log_probs.view(len(searching), -1, vocab) + before[:, :, None]
        totals = totals.flatten(1)  # (P, beams·V)
        found = totals.topk(min(2 * beam, totals.size(1)))  # (P, 2·beam)
        best, columns = found.values.tolist(), found.indices.tolist()
        check_scores((falling[0] for falling in best), models)  # NaN comes first
        new_rows: list[int] = []
        still: list[Sentence] = []
        for index, sentence in enumerate(searching):
            origins = sentence.extend(best[index], columns[index], vocab, eos)
            if not sentence.is_done(step + 1):
                still.append(sentence)
                new_rows += [index * beam + origin for origin in origins]
        if not still:
            break
        # The beams of a sentence have its prompt in common; where sentences end, others move up.
        decoding.select(new_rows, shared if len(still) == len(searching) else 0)
        searching = still
        last = [node.token if node else pad for s in searching for node in s.growing]
        logits = decoding.step(torch.tensor(last, device=device))
    return [Continuations(s.best(), *scores) for s, scores in zip(sentences, prompt_scores)]
