"""An OPT in this process, as whoever evaluates asks it.

    model = LocalModel(OPT.from_pretrained("runs/quickstart"))
    for index, answer in model.answer([Pair("The cat", " sat"), Whole("…"), Prompt("Once", {"seed": 1})]):

(1) Pairs and texts become rows of tokens (``token_rows.py``), and are scored together: beginnings that rows share are read
once, and logits are computed for the wanted tokens alone (``generation/likelihood.py``);
(2) prompts go on in batches of equal limits.

A prompt's samples follow from its tokens, its seed and its options alone: equal prompts with equal options get equal
texts, and it is the same whether they are asked together, apart, or after a restart. Numbers depend on the
batch in their last bits; the same requests in one call give the same bits.
"""

import hashlib
import math
from collections import Counter
from typing import Any, Iterator, Mapping, Optional, Sequence, Union

from metaseq_plugin.compat.errors import UserError
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
from metaseq_plugin.evaluate.token_rows import Row, boundary, encoded, pair_row, windows
from metaseq_plugin.generation.generator import MAX_BATCH_TOKENS, batches
from metaseq_plugin.generation.likelihood import Likelihood, likelihoods
from metaseq_plugin.generation.options import Asked
from metaseq_plugin.hub import OPT
from metaseq_plugin.tokenizers.base import Tokenizer

# As lm_eval's class ``hf`` reads a whole text of a model that puts </s> before every text: the prefix that lm_eval
# puts there too is not scored, the model's own is.
SEPARATORS_BEFORE_WHOLE = 2


class LocalModel:
    """The hub's ``OPT`` as a ``Model`` of evaluations.

    Args:
        batch_tokens: most tokens of a batch, padding and new ones included; None: ``MAX_BATCH_TOKENS``.
        separators: how many ``</s>`` stand before a whole text; the first is read only, others are scored.
        about: what is known of where it came from.

    Raises:
        UserError: the model has no tokenizer, or ``batch_tokens`` is below 1.
    """

    def __init__(
        self,
        opt: OPT,
        batch_tokens: Optional[int] = None,
        separators: int = SEPARATORS_BEFORE_WHOLE,
        about: Optional[Mapping[str, Any]] = None,
    ) -> None:
        if opt.tokenizer is None:
            raise UserError(
                "`--path` must have tokenizer files beside the weights, but has none. "
                "Set --tokenizer to the folder that has them."
            )
        if batch_tokens is not None and batch_tokens < 1:
            raise UserError(
                f"`--batch-tokens` must be at least 1, but is {batch_tokens}. Set {MAX_BATCH_TOKENS}."
            )
        self.opt = opt
        self.tokenizer: Tokenizer = opt.tokenizer
        self.batch_tokens = MAX_BATCH_TOKENS if batch_tokens is None else batch_tokens
        self.separators = separators
        self.longest = opt.generator.longest
        weight = opt.model.output_weight
        self.about: Mapping[str, Any] = {
            "num_parameters": sum(parameter.numel() for parameter in opt.model.parameters()),
            "dtype": str(opt.dtype).removeprefix("torch."),
            "device": weight.device.type,
            "longest": self.longest,
            "tokenizer": digest_of(self.tokenizer),
            "whole": self.says_of_whole,
            **(about or {}),
        }

    @property
    def says_of_whole(self) -> str:
        """How whole texts are read, for the protocol: it changes perplexities."""
        return (
            f"{self.separators} </s> before the text, the first not scored; windows of as many scored tokens as "
            "the model reads, each behind the last token of the one before, the last filled up on the left"
        )

    def obstacle(self, request: Request) -> Optional[str]:
        """See ``requests.Foreseeing``: a continuation, or new tokens, of more than the model reads."""
        reads = f"and the model reads {self.longest}"
        if isinstance(request, Prompt):
            count = self.read_options(request.options).max_new_tokens
            return f"{count} new tokens are asked for, {reads}" if count >= self.longest else None
        # Most texts are so short that they need not be encoded.
        if isinstance(request, Pair) and size_of(request) >= self.longest:
            count = encoded(request, self.tokenizer).num_scored
            return f"a continuation has {count} tokens, {reads}" if count > self.longest else None
        return None

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """See ``requests.Model``.

        Raises:
            UserError: a continuation of no tokens or too many, impossible options of a prompt, or logits
                that are not finite.
        """
        yield from self.answer_scored(requests)
        yield from self.answer_prompts(
            [(index, one) for index, one in enumerate(requests) if isinstance(one, Prompt)]
        )

    def answer_scored(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Union[PairAnswer, WholeAnswer]]]:
        """Pairs and texts; a text when the last of its windows is found."""
        rows: list[Row] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            own = list(self.rows(request))
            rows += own
            owners += [index] * len(own)
        found: dict[int, list[tuple[Row, Likelihood]]] = {}
        num_rows = Counter(owners)
        tokens, counts = [row.tokens for row in rows], [row.num_scored for row in rows]
        for number, likelihood in likelihoods(
            self.opt.generator, tokens, counts, self.batch_tokens
        ):
            owner = owners[number]
            found.setdefault(owner, []).append((rows[number], likelihood))
            if len(found[owner]) == num_rows[owner]:
                yield owner, answer_of(requests[owner], found.pop(owner))

    def rows(self, request: Request) -> Iterator[Row]:
        """What is scored for a request."""
        eos = self.opt.generator.eos
        if isinstance(request, Pair):
            yield pair_row(request, self.tokenizer, eos, self.longest)
        elif isinstance(request, Whole):
            own = [eos] * (self.separators - 1)
            tokens = [*own, *self.opt.encode(request.text)]
            if not tokens:
                raise UserError("A text must have at least one token, but has none. Leave it out.")
            yield from windows(tokens, eos, self.longest)

    def answer_prompts(
        self, prompts: Sequence[tuple[int, Prompt]]
    ) -> Iterator[tuple[int, PromptAnswer]]:
        """Prompts, those of equal limits and numbers of samples together."""
        asked = [self.read_options(prompt.options) for _, prompt in prompts]
        whole = [[self.opt.generator.eos, *self.opt.encode(p.text)] for _, p in prompts]
        rows = [row[-self.room(one) :] for row, one in zip(whole, asked)]
        alike: dict[tuple[int, int], list[int]] = {}
        for place, one in enumerate(asked):
            width = one.settings.num_samples * one.settings.beam
            alike.setdefault((one.max_new_tokens, width), []).append(place)
        for (limit, width), places in alike.items():
            lengths = [len(rows[place]) for place in places]
            for batch in batches(lengths, limit, width, None, self.batch_tokens):
                chosen = [places[number] for number in batch]
                continued = self.opt.continue_rows(
                    [rows[place] for place in chosen],
                    [asked[place] for place in chosen],
                    [0] * len(chosen),  # the seed alone tells equal prompts apart
                )
                for place, completions in zip(chosen, continued):
                    texts = tuple(completion.text or "" for completion in completions)
                    yield (
                        prompts[place][0],
                        PromptAnswer(texts, len(whole[place]) - len(rows[place])),
                    )

    def read_options(self, options: Mapping[str, Any]) -> Asked:
        return self.opt.read_options({**options, "with_scores": False})

    def room(self, asked: Asked) -> int:
        """Most tokens of a prompt, so that all new ones can be read behind it."""
        room = self.longest - asked.max_new_tokens
        if room < 1:
            raise UserError(
                f"`max_new_tokens` must be below the {self.longest} tokens that the model reads, but is "
                f"{asked.max_new_tokens}. Set {self.longest // 2}, say."
            )
        return room


def digest_of(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokenizer's files and symbols: with another one, the same weights read something else."""
    found = hashlib.sha256("\n".join(tokenizer.dictionary.symbols).encode())
    for name, content in sorted(tokenizer.files().items()):
        found.update(name.encode() + content)
    return found.hexdigest()


def size_of(pair: Pair) -> int:
    """Bytes of the continuation: no token has less than one, but that pieces may put a blank before a text."""
    return len(boundary(pair)[1].encode("utf-8", "surrogatepass"))


def answer_of(
    request: Request, found: Sequence[tuple[Row, Likelihood]]
) -> Union[PairAnswer, WholeAnswer]:
    """What a request is answered once all of its rows are scored."""
    total = math.fsum(score for _, likelihood in found for score in likelihood.scores)
    ntokens = sum(row.num_scored for row, _ in found)
    if isinstance(request, Whole):
        return WholeAnswer(total, ntokens, len(found))
    ((row, likelihood),) = found
    return PairAnswer(total, ntokens, likelihood.is_greedy, row.is_merged, row.ncut)
