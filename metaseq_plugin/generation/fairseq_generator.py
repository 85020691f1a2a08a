"""Our generator as ``fairseq-interactive`` and ``fairseq-generate`` drive it.

    fairseq-interactive DATA --user-dir metaseq_plugin --task opt_language_modeling \\
        --path RUN/checkpoint_best.pt --beam 1 --max-len-b 64
    fairseq-interactive … --sampling --sampling-topp 0.9 --temperature 0.8 --beam 3 --nbest 3
    fairseq-generate DATA … --gen-subset valid --prefix-size 32 --beam 5

What fairseq's options mean for a language model:

    --max-len-a, --max-len-b   at most a · (prompt tokens) + b NEW tokens (fairseq's default: 200);
                               fairseq's own generator counts the prompt as well
    --min-len                  so many new tokens before ``</s>`` may come
    --beam 1                   greedy, or with --sampling one sample
    --beam N --sampling        N samples
    --seed N                   the same samples each time, also for fairseq's default of 1

Printed tokens (H-, D-) are the prompt's and the new ones, and so are their scores (P-). The score of
a hypothesis, and with it the order, comes from the new tokens alone.
"""

import math
from typing import Any, Optional, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.generator import Generator
from metaseq_plugin.generation.settings import Continuations, Settings, check_settings
from metaseq_plugin.models.opt import OPTLanguageModel

SPELLED = {
    "min_new_tokens": "--min-len",
    "max_new_tokens": "--max-len-b",
    "temperature": "--temperature",
    "top_k": "--sampling-topk",
    "top_p": "--sampling-topp",
    "beam": "--beam",
    "num_samples": "--beam",
    "length_penalty": "--lenpen",
}

# Fields of fairseq's GenerationConfig that this generator has no part for.
REFUSED = (
    "match_source_len",
    "no_repeat_ngram_size",
    "unkpen",
    "constraints",
    "diverse_beam_groups",
    "diversity_rate",
    "replace_unk",
    "print_alignment",
    "print_step",
    "lm_path",
    "retain_iter_history",
    "retain_dropout",
    "decoding_format",
)


def option_of(field: str) -> str:
    """The option of a field of fairseq's."""
    return f"--{field.replace('_', '-')}"


def settings_from(cfg: GenerationConfig, seed: Optional[int], vocab_size: int) -> Settings:
    """fairseq's generation options as ours, checked."""
    defaults = GenerationConfig()
    problems = [
        f"`{option_of(field)}` must be left out with opt_language_modeling, but is {getattr(cfg, field)}. "
        "This generator has no such part."
        for field in REFUSED
        if getattr(cfg, field) != getattr(defaults, field)
    ]
    for field in ("sampling_topk", "sampling_topp"):
        if getattr(cfg, field) != getattr(defaults, field) and not cfg.sampling:
            problems.append(
                f"`{option_of(field)}` must come with --sampling, but comes alone. Add it."
            )
    if cfg.temperature != defaults.temperature and not cfg.sampling and cfg.beam == 1:
        problems.append(
            f"`--temperature` must come with --sampling, but is {cfg.temperature} and comes alone. "
            "Add --sampling, or leave it out for greedy decoding."
        )
    if cfg.sampling_topk != defaults.sampling_topk and cfg.sampling_topk < 1:
        problems.append(
            f"`--sampling-topk` must be at least 1, but is {cfg.sampling_topk}. "
            "Leave it out to sample from all tokens."
        )
    if cfg.max_len_a < 0 or not math.isfinite(cfg.max_len_a):
        problems.append(f"`--max-len-a` must be 0 or more, but is {cfg.max_len_a}. Set 0.")
    if cfg.nbest > cfg.beam:
        problems.append(
            f"`--nbest` must be at most `--beam` ({cfg.beam}), but is {cfg.nbest}. Set either."
        )
    if problems:
        raise UserError(*problems)
    settings = Settings(
        min_new_tokens=cfg.min_len,
        temperature=cfg.temperature if cfg.sampling or cfg.beam > 1 else min(cfg.temperature, 0.0),
        top_k=max(cfg.sampling_topk, 0),
        top_p=1.0 if cfg.sampling_topp == defaults.sampling_topp else cfg.sampling_topp,
        beam=1 if cfg.sampling else cfg.beam,
        num_samples=cfg.beam if cfg.sampling else 1,
        length_penalty=cfg.lenpen,
        normalize=not cfg.unnormalized,
        seed=seed,
        with_prompt_scores=True,
    )
    # With --max-len-a the maximum depends on the prompt; the shortest has one token.
    check_settings(settings, int(cfg.max_len_a + cfg.max_len_b), SPELLED, vocab_size)
    return settings


class FairseqGenerator:
    """The interface of ``fairseq.sequence_generator.SequenceGenerator``, as far as its callers go.

    Args:
        seed: of the run, or None for another outcome each time.
    """

    def __init__(
        self,
        models: Sequence[OPTLanguageModel],
        dictionary: Dictionary,
        cfg: GenerationConfig,
        seed: Optional[int],
    ) -> None:
        self.settings = settings_from(cfg, seed, len(dictionary))
        self.max_len_a: float = cfg.max_len_a
        self.max_len_b: int = cfg.max_len_b
        self.generator = Generator(models, dictionary)
        self.pad: int = dictionary.pad()
        self.eos: int = dictionary.eos()
        self.symbols_to_strip_from_output = {self.eos}  # fairseq_cli reads it

    def generate(
        self, sample: dict[str, Any], prefix_tokens: Optional[Tensor]
    ) -> list[list[dict[str, Tensor]]]:
        """Continue every row of ``sample``, as fairseq's own generators do.

        Args:
            sample: its ``net_input.src_tokens`` (B, T) begin with ``</s>`` or, for a block from the
                middle of a document, with the token before it.
            prefix_tokens: (B, prefix) tokens that follow the first one (``--prefix-size``); None:
                all of the row is the prompt.

        Returns:
            Per row its hypotheses, best first: ``tokens`` (n,) without the prompt's first one,
            ``positional_scores`` (n,), ``score`` (), and empty ``attention`` and ``alignment``.
        """
        source = sample["net_input"]["src_tokens"]  # (B, T)
        if prefix_tokens is not None:
            source = torch.cat([source[:, :1], prefix_tokens.to(source)], 1)  # (B, 1 + prefix)
        prompts = [[token for token in row if token != self.pad] for row in source.tolist()]
        limits = [int(self.max_len_a * len(prompt) + self.max_len_b) for prompt in prompts]
        # One batch, as fairseq's.
        rows = len(prompts) * self.settings.num_samples * self.settings.beam
        found = self.generator.generate(prompts, limits, self.settings, batch_size=rows)
        return [
            self.as_fairseq(prompt, continuations) for prompt, continuations in zip(prompts, found)
        ]

    def as_fairseq(
        self, prompt: list[int], continuations: Continuations
    ) -> list[dict[str, Tensor]]:
        hypotheses = sorted(continuations.hypotheses, key=lambda h: h.rank, reverse=True)
        return [
            {
                "tokens": torch.tensor(prompt[1:] + hypothesis.tokens),
                "score": torch.tensor(hypothesis.rank),
                "attention": torch.empty(0),
                "alignment": torch.empty(0),
                "positional_scores": torch.tensor(continuations.prompt_scores + hypothesis.scores),
            }
            for hypothesis in hypotheses
        ]
