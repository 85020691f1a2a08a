"""Continue a batch of prompts: one forward pass over all of them, then one token a step.

    generator = Generator([model], dictionary)
    generator.generate([[2, 31414, 232]], [20], Settings(temperature=0.0))

What a prompt is continued with does not depend on the other prompts of its batch: padding is seen by
no one, and random numbers belong to a prompt (``sampling.py``).
"""

import secrets
from typing import NamedTuple, Optional, Sequence

import torch
from fairseq.data import Dictionary

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.decoding import Decoding
from metaseq_plugin.generation.sampling import count_repeats
from metaseq_plugin.generation.search import (
    Hypothesis,
    Problem,
    StopRule,
    sample_rows,
    search_beams,
)
from metaseq_plugin.generation.settings import Settings
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.modules.linear import store_for_decoding_


class Continuations(NamedTuple):
    """Of one prompt: samples in order, or beam search's hypotheses from the best on."""

    hypotheses: list[Hypothesis]
    prompt_scores: list[float]  # of the prompt's tokens after the first; empty unless asked for


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

    def check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """Refuse prompts that the models cannot read."""
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise UserError(
                    f"A prompt must have at least one token, but prompt {number} has none. "
                    "Begin it with </s>."
                )
            if len(prompt) > self.longest:
                raise UserError(
                    f"A prompt must have at most {self.longest} tokens with its leading </s> "
                    f"(`--decoder-max-positions`), but prompt {number} has {len(prompt)}. Shorten it."
                )
            if min(prompt) < 0 or max(prompt) >= self.vocab_size:
                wrong = min(prompt) if min(prompt) < 0 else max(prompt)
                raise UserError(
                    f"A prompt's token ids must be from 0 to {self.vocab_size - 1}, but prompt "
                    f"{number} holds {wrong}. Encode it with this model's dictionary."
                )
            if self.pad in prompt:
                raise UserError(
                    f"A prompt's token ids must not be padding ({self.pad}), but prompt {number} "
                    "holds it. Leave it out; batches are padded here."
                )

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        settings: Settings,
        stop: Optional[StopRule] = None,
        repeats: Optional[Sequence[int]] = None,
    ) -> list[Continuations]:
        """Continue all ``prompts`` as one batch.

        Args:
            prompts: token ids, the leading ``</s>`` included.
            limits: most new tokens, per prompt; capped so that the model can read them.
            stop: asked after each new token of each row; not for beam search.
            repeats: for prompts that are one of several batches, what ``count_repeats`` says of all.

        Raises:
            UserError: a prompt that is empty, too long, or outside the vocabulary.
        """
        if not prompts:
            return []
        self.check_prompts(prompts)
        # The last new token is predicted but not read, hence one more than the model holds.
        room = [self.longest + 1 - len(prompt) for prompt in prompts]
        limits = [min(pair) for pair in zip(limits, room)]
        longest = max(map(len, prompts))
        capacity = longest + max(limits)
        decoding = Decoding(self.models, self.pad)
        multiplies = settings.num_samples > 1 or settings.beam > 1  # rows, after the prompts
        logits, scores = decoding.prefill(
            prompts, longest if multiplies else capacity, settings.with_prompt_scores
        )
        problem = Problem(
            decoding, prompts, repeats or count_repeats(prompts), limits, settings,
            self.pad, self.eos, logits, capacity,
        )  # fmt: skip
        if settings.beam > 1:
            assert stop is None, "stop rules are for sampling"
            found = search_beams(problem)
        else:
            seed = secrets.randbits(63) if settings.seed is None else settings.seed
            found = sample_rows(problem, seed, stop)
        rows = [[]] * len(prompts) if scores is None else scores.tolist()
        return [
            # Left padding comes first; a prompt of t tokens has t - 1 scores.
            Continuations(hypotheses, row[len(row) - len(prompt) + 1 :])
            for hypotheses, row, prompt in zip(found, rows, prompts)
        ]
