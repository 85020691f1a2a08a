"""Continue and score any number of prompts, in batches of similar length.

    generator = Generator([model], dictionary)
    generator.generate([[2, 31414, 232]], [20], Settings(temperature=0.0))
    generator.score([[2, 31414, 232]])

Legend: B rows, T tokens with padding, E features.

What a prompt is continued with does not depend on the other prompts, nor on how they are batched: see
``batch.py``, whose steps a batch is continued by.
"""

from itertools import islice
from typing import Iterator, Optional, Sequence

import torch
from fairseq.data import Dictionary

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.batch import Batch, Request, Row
from metaseq_plugin.generation.beam import search_beams
from metaseq_plugin.generation.decoding import Decoding
from metaseq_plugin.generation.options import name_of
from metaseq_plugin.generation.sampling import count_repeats
from metaseq_plugin.generation.scoring import Scores
from metaseq_plugin.generation.settings import Continuations, Hypothesis, Settings
from metaseq_plugin.generation.stopping import StopRule
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.modules.decoding_weights import store_for_decoding_

# A batch holds at most so many tokens, new ones and padding included, and so many rows. In fp32 the
# keys and values of a token take 72 KiB in the 125M: 1.2 GB a batch, and room for up to twice as many.
MAX_BATCH_TOKENS = 16_384
MAX_BATCH_ROWS = 64


def batches(
    lengths: Sequence[int],
    new_tokens: int,
    width: int,
    batch_size: Optional[int],
    max_tokens: int = MAX_BATCH_TOKENS,
) -> Iterator[list[int]]:
    """Indices of prompts in batches of similar length.

    Args:
        lengths: tokens of each prompt.
        new_tokens: most that a prompt may get.
        width: rows per prompt.
        batch_size: most rows at once; None: as many as ``max_tokens`` and ``MAX_BATCH_ROWS`` allow.
        max_tokens: of a batch, padding and new ones included.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"`batch_size` must be at least 1, but is {batch_size}. Set 8, say.")
    most = max(1, (batch_size or MAX_BATCH_ROWS) // width)
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        tokens = (lengths[index] + new_tokens) * width * (len(batch) + 1)
        too_many = batch_size is None and tokens > max_tokens
        if batch and (len(batch) == most or too_many):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class Generator:
    """Holds models ready to generate.

    Args:
        models: put into evaluation mode, weights stored for decoding; several are averaged.
    """

    def __init__(self, models: Sequence[OPTLanguageModel], dictionary: Dictionary) -> None:
        self.models = models
        self.pad: int = dictionary.pad()
        self.eos: int = dictionary.eos()
        self.vocab_size = len(dictionary)
        self.longest: int = min(model.max_positions() for model in models)
        for model in models:
            model.eval()
            store_for_decoding_(model)

    def check_prompts(
        self, prompts: Sequence[Sequence[int]], longest: Optional[int] = None
    ) -> None:
        """Refuse prompts that the models cannot read.

        Args:
            longest: most tokens; default: as many as the models read.
        """
        longest = self.longest if longest is None else longest
        for number, prompt in enumerate(prompts):
            name = name_of(number, len(prompts))
            if not prompt:
                raise UserError(
                    f"A prompt must have at least one token, but {name} has none. "
                    f"Set [{self.eos}], which is </s>, to begin a new document."
                )
            if len(prompt) > longest:
                raise UserError(
                    f"A prompt must have at most {longest} tokens with its leading </s> "
                    f"(`--decoder-max-positions`), but {name} has {len(prompt)}. Shorten it."
                )
            if min(prompt) < 0 or max(prompt) >= self.vocab_size:
                wrong = min(prompt) if min(prompt) < 0 else max(prompt)
                raise UserError(
                    f"A prompt's token ids must be from 0 to {self.vocab_size - 1}, but {name} "
                    f"holds {wrong}. Encode it with this model's dictionary."
                )
            if self.pad in prompt:
                raise UserError(
                    f"A prompt's token ids must not be padding ({self.pad}), but {name} "
                    "holds it. Leave it out; batches are padded here."
                )

    def begun(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Each prompt behind one ``</s>``, unless it begins with it; ``check_prompts`` refuses empty ones."""
        return [[self.eos, *p] if p and p[0] != self.eos else list(p) for p in prompts]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        settings: Settings,
        stop: Optional[StopRule] = None,
        batch_size: Optional[int] = None,
    ) -> list[Continuations]:
        """Continue all ``prompts``.

        Args:
            prompts: token ids, the leading ``</s>`` included.
            limits: most new tokens, per prompt; capped so that the models can read them.
            stop: asked after each new token of each row; not for beam search.
            batch_size: most rows at once; None: as many as fit into ``MAX_BATCH_TOKENS``.

        Raises:
            UserError: a prompt that is empty, too long, or outside the vocabulary; logits that are not
                finite.
        """
        self.check_prompts(prompts)
        requests = [
            Request(prompt, limit, settings, repeat, stop)
            for prompt, limit, repeat in zip(prompts, limits, count_repeats(prompts))
        ]
        return self.answer(requests, batch_size)

    def answer(
        self, requests: Sequence[Request], batch_size: Optional[int] = None
    ) -> list[Continuations]:
        """Continue requests of any settings, in order; prompts must have passed ``check_prompts``.

        Raises:
            UserError: ``batch_size`` is below 1; logits that are not finite.
        """
        together: dict[Optional[Settings], list[int]] = {}  # a search goes on among its like only
        for index, request in enumerate(requests):
            settings = request.settings
            together.setdefault(settings if settings.beam > 1 else None, []).append(index)
        found: dict[int, Continuations] = {}
        for indices in together.values():
            chosen = [requests[index] for index in indices]
            lengths, limit = [len(r.prompt) for r in chosen], max(r.limit for r in chosen)
            width = max(r.settings.num_samples * r.settings.beam for r in chosen)
            for batch in batches(lengths, limit, width, batch_size):
                answers = self.continue_batch([chosen[place] for place in batch])
                found.update(zip((indices[place] for place in batch), answers))
        return [found[index] for index in range(len(requests))]

    @torch.inference_mode()
    def continue_batch(self, requests: Sequence[Request]) -> list[Continuations]:
        """Continue requests together: samples of any settings, or searches of the same."""
        settings = requests[0].settings
        if settings.beam > 1:
            assert requests[0].stop is None, "stop rules are for sampling"
            prompts, limits = zip(*((r.prompt, r.limit) for r in requests))
            return search_beams(self.models, prompts, limits, settings, self.pad, self.eos)
        batch = Batch(self.models, self.pad, self.eos)
        rows = iter(batch.admit(requests))
        while batch.rows:
            batch.step()
        samples = [list(islice(rows, request.settings.num_samples)) for request in requests]
        return [
            Continuations(
                list(map(hypothesis, own)), own[0].prompt_scores, own[0].prompt_top_scores
            )
            for own in samples
        ]

    def score(
        self, rows: Sequence[Sequence[int]], batch_size: Optional[int] = None, num_top: int = 0
    ) -> list[Scores]:
        """Natural log-probability of each row's every token behind its first.

        Args:
            batch_size: as in ``generate``.
            num_top: how many of the likeliest tokens to tell with each.

        Raises:
            UserError: a row that is empty, too long, or outside the vocabulary; logits that are not
                finite.
        """
        self.check_prompts(rows, self.longest + 1)  # a row's last token is scored, not read
        found: dict[int, Scores] = {}
        for batch in batches([len(row) for row in rows], 0, 1, batch_size):
            found.update(zip(batch, self.score_batch([rows[i] for i in batch], num_top)))
        return [found[index] for index in range(len(rows))]

    @torch.inference_mode()
    def score_batch(self, rows: Sequence[Sequence[int]], num_top: int) -> list[Scores]:
        return Decoding(self.models, self.pad).score(rows, num_top)


def hypothesis(row: Row) -> Hypothesis:
    """What a finished row is."""
    assert row.finish_reason is not None
    rank = row.request.settings.rank(sum(row.scores), len(row.tokens))
    return Hypothesis(row.tokens, row.scores, rank, row.finish_reason, row.top_scores)
