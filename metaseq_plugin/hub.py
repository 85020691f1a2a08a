"""The Python door: load a model from wherever it lies, continue and score texts with it.

    from metaseq_plugin.hub import OPT
    opt = OPT.from_pretrained("runs/quickstart")     # run folder, checkpoint, HF folder, metaseq's files
    opt.generate(["def main("], max_new_tokens=40, top_p=0.9, seed=1)[0][0].text
    opt.score(["def main():"])[0].scores

A prompt is a string, or a list of token ids for models without tokenizer files. Every prompt begins
with ``</s>``, OPT's document separator: it is put in front unless the ids already begin with it.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence, Union

import numpy as np
import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.model import Model, read_model
from metaseq_plugin.formats.tensors import DTYPES, check_held
from metaseq_plugin.generation.generator import Generator
from metaseq_plugin.generation.settings import (
    Hypothesis,
    Settings,
    check_settings,
    check_types,
    is_whole,
)
from metaseq_plugin.generation.stopping import StopTexts
from metaseq_plugin.models.opt import OPTDecoder, OPTLanguageModel
from metaseq_plugin.modules.linear import computes_in, store_for_decoding_
from metaseq_plugin.storage.mapped import release
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.dictionary import (
    DICTIONARY_FILE,
    check_dictionary_size,
    load_dictionary,
    numbered_dictionary,
)
from metaseq_plugin.tokenizers.files import METASEQ_VOCAB
from metaseq_plugin.tokenizers.open import from_folder, has_tokenizer

Prompt = Union[str, Sequence[int]]

SPELLED = {n: n for n in ("max_new_tokens", "batch_size", *(f.name for f in fields(Settings)))}


class Completion(NamedTuple):
    """One continuation of a prompt."""

    text: Optional[str]  # without </s>, cut before a stop string; None without a tokenizer
    tokens: list[int]  # new tokens, with the </s> that ended them, if one did
    scores: list[float]  # natural log-probability of each, at the temperature, nothing truncated
    finish_reason: str  # "eos", "length" or "stop"


class Scored(NamedTuple):
    """The tokens of an input and what the model gives each, after ``</s>`` and those before it."""

    tokens: list[int]  # without the leading </s>
    scores: list[float]  # natural log-probabilities


def dictionary_of(model: Model) -> Dictionary:
    """The model's dictionary, or where no ``dict.txt`` is known one of the right size."""
    folder = model.data
    # In a folder of metaseq's, dict.txt does not number the tokens.
    if folder and (folder / DICTIONARY_FILE).is_file() and not (folder / METASEQ_VOCAB).is_file():
        dictionary = load_dictionary(folder)
        check_dictionary_size(len(dictionary), model.vocab_size, folder)
        return dictionary
    return numbered_dictionary(model.vocab_size)


def tokenizer_of(model: Model) -> Optional[Tokenizer]:
    """The model's tokenizer, where its folder holds one."""
    if model.data is None or not has_tokenizer(model.data):
        return None
    tokenizer = from_folder(model.data)
    check_dictionary_size(len(tokenizer), model.vocab_size, model.data)
    return tokenizer


def build_model(
    source: Model, dictionary: Dictionary, device: torch.device, dtype: torch.dtype
) -> OPTLanguageModel:
    """The model on ``device``, its matrices as decoding wants them.

    One tensor after the other: of each only what the model keeps is held when the next one is read.
    """
    with torch.device("meta"):
        model = OPTLanguageModel(OPTDecoder(source.cfg, dictionary)).requires_grad_(False)
    for name, tensor in source.tensors.items():
        placed = tensor.to(device=device, dtype=dtype)
        check_held(name, tensor, placed, "dtype")
        owner, _, own_name = name.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, own_name, nn.Parameter(placed, requires_grad=False))
        if own_name == "weight":
            store_for_decoding_(module)
        kept = module.get_parameter(own_name)
        if placed is tensor and not kept.is_mkldnn:
            kept.data = tensor.clone()  # in memory of its own, whatever becomes of the file
        release(tensor)
    return model


def check_computed(dtype: torch.dtype) -> None:
    """Refuse a data type that this CPU emulates: products were 10 to 30 times slower than in float32."""
    if not computes_in(dtype):
        usable = [name for name, kind in DTYPES.items() if computes_in(kind)]
        raise UserError(
            f"`dtype` must be one that this CPU has instructions for ({', '.join(usable)}), but is "
            f"{str(dtype).removeprefix('torch.')}, which it would emulate many times slower. Set float32."
        )


def token_ids(prompt: Any, number: int) -> list[int]:
    """``prompt`` as Python's integers: a list, an array or a tensor of whole numbers, (T,).

    Raises:
        UserError: it is something else, or holds something else.
    """
    ids = prompt.tolist() if isinstance(prompt, (np.ndarray, Tensor)) else prompt
    if not isinstance(ids, Sequence) or isinstance(ids, bytes):
        raise UserError(
            f"A prompt must be a text or a list of token ids, but prompt {number} is {prompt!r}. "
            "Set [[31414, 232]], a list of such prompts."
        )
    wrong = [token for token in ids if not is_whole(token)]
    if wrong:
        raise UserError(
            f"A prompt's token ids must be whole numbers, but prompt {number} holds {wrong[0]!r}. "
            "Use those that `encode` gives."
        )
    return [int(token) for token in ids]


class OPT:
    """A model, and its tokenizer where there is one.

    Attributes:
        tokenizer: None where no tokenizer files were found; then prompts must be token ids.
    """

    def __init__(
        self, model: OPTLanguageModel, dictionary: Dictionary, tokenizer: Optional[Tokenizer]
    ) -> None:
        self.model = model
        self.dictionary = dictionary
        self.tokenizer = tokenizer
        self.generator = Generator([model], dictionary)

    @classmethod
    def from_pretrained(
        cls,
        path: Union[str, Path],
        data: Optional[Union[str, Path]] = None,
        device: Optional[Union[str, torch.device]] = None,
        dtype: Optional[str] = None,
        trust_pickle: bool = False,
    ) -> "OPT":
        """Load a model.

        Args:
            path: whatever `metaseq convert` reads: a run folder (its best checkpoint, else its last),
                a checkpoint in one file or in parts, a Hugging Face folder, or metaseq's files.
            data: folder with ``dict.txt`` and tokenizer files; default: beside the weights, else
                the one the model was trained on.
            device: default: the accelerator, else the CPU.
            dtype: "float32", "float16" or "bfloat16"; default: float32 on CPUs, elsewhere as saved.
                bfloat16 halves memory and time on CPUs that have instructions for it.
            trust_pickle: let metaseq's files hold more than plain data. Such a file can run any
                program, so set this only if you trust who made it.

        Raises:
            UserError: whatever is wrong with the files, in one sentence.
        """
        if dtype is not None and dtype not in DTYPES:
            raise UserError(
                f"`dtype` must be one of {', '.join(DTYPES)}, but is {dtype}. Set float32."
            )
        if data is not None and not Path(data).is_dir():
            raise UserError(f"`data` must be a folder, but is {data}. Set the prepared folder.")
        source = read_model(Path(path), None if data is None else Path(data), trust_pickle)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        place = torch.device(device)
        default = torch.float32 if place.type == "cpu" else source.dtype
        kind = DTYPES[dtype] if dtype else default
        if place.type == "cpu":
            check_computed(kind)
        dictionary, tokenizer = dictionary_of(source), tokenizer_of(source)
        model = build_model(source, dictionary, place, kind)
        return cls(model, dictionary, tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, without ``</s>``."""
        if self.tokenizer is None:
            raise UserError(
                "A prompt must be a list of token ids, but is a string, and the model has no "
                "tokenizer files. Set `data` to the folder that has them."
            )
        return self.tokenizer.encode(text).tolist()

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids; ``</s>`` is nothing."""
        if self.tokenizer is None:
            raise UserError(
                "`decode` must have tokenizer files, but the model has none. "
                "Set `data` to the folder that has them."
            )
        return self.tokenizer.decode(tokens)

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int = 64,
        min_new_tokens: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        beam: int = 1,
        num_samples: int = 1,
        length_penalty: float = 1.0,
        seed: Optional[int] = None,
        stop: Union[str, Sequence[str]] = (),
        with_scores: bool = True,
        batch_size: Optional[int] = None,
    ) -> list[list[Completion]]:
        """Continue each prompt; per prompt, samples in order or hypotheses from the best on.

        Args:
            max_new_tokens: most new tokens, the ending ``</s>`` included; capped at what the model
                can read.
            min_new_tokens, temperature, top_k, top_p, num_samples, length_penalty: as in ``Settings``.
            beam: above 1, beam search with so many hypotheses, all returned.
            seed: gives a prompt the same samples whatever the other prompts are; of equal prompts,
                the second gets other samples than the first. None: another outcome each time.
            stop: texts that end a continuation, which is cut before them.
            with_scores: leave out to save a few percent.
            batch_size: most rows at once; default: as many as fit into ``MAX_BATCH_TOKENS``.

        Raises:
            UserError: impossible settings, a prompt that cannot be read, or logits that are not finite.
        """
        settings = Settings(
            min_new_tokens, temperature, top_k, top_p, beam, num_samples, length_penalty,
            seed=seed, with_scores=with_scores,
        )  # fmt: skip
        check_settings(settings, max_new_tokens, SPELLED, len(self.dictionary))
        check_types({"batch_size": batch_size}, SPELLED)
        stops = self.check_stops(stop, beam)
        rows = self.rows_of(prompts)
        continued = self.generator.generate(
            rows,
            [max_new_tokens] * len(rows),
            settings,
            StopTexts(stops, self.decode) if stops else None,
            batch_size,
        )
        return [
            [self.completion(row, hypothesis, stops) for hypothesis in continuations.hypotheses]
            for row, continuations in zip(rows, continued)
        ]

    def score(self, inputs: Sequence[Prompt], batch_size: Optional[int] = None) -> list[Scored]:
        """Log-probability of every token of every input, the first one given ``</s>``.

        Raises:
            UserError: an input that cannot be read, or logits that are not finite.
        """
        check_types({"batch_size": batch_size}, SPELLED)
        rows = self.rows_of(inputs)
        scores = self.generator.score(rows, batch_size)
        return [Scored(row[1:], values) for row, values in zip(rows, scores)]

    def rows_of(self, inputs: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each input behind one ``</s>``."""
        is_list = isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes))
        if not is_list or not inputs:
            given = (
                "one string" if isinstance(inputs, str) else "empty" if is_list else f"{inputs!r}"
            )
            raise UserError(
                f'`prompts` must be a list of at least one prompt, but is {given}. Set ["text"].'
            )
        return self.generator.begun(
            [
                self.encode(prompt) if isinstance(prompt, str) else token_ids(prompt, number)
                for number, prompt in enumerate(inputs)
            ]
        )

    def check_stops(self, stop: Union[str, Sequence[str]], beam: int) -> list[str]:
        stops = [stop] if isinstance(stop, str) else stop
        if not isinstance(stops, Sequence) or not all(isinstance(text, str) for text in stops):
            raise UserError(
                f'`stop` must be a text or a list of texts, but is {stop!r}. Set ["."], say.'
            )
        if stops and (beam > 1 or self.tokenizer is None or "" in stops):
            reason = "`beam` is above 1" if beam > 1 else "the model has no tokenizer"
            raise UserError(
                "`stop` must be left out, or hold non-empty texts, with a tokenizer and `beam` 1, "
                f"but is {list(stops)}{'' if '' in stops else ', and ' + reason}. Leave it out."
            )
        return list(stops)

    def completion(
        self, prompt: list[int], hypothesis: Hypothesis, stops: Sequence[str]
    ) -> Completion:
        text = None
        if self.tokenizer is not None:
            text = self.continued_text(prompt, hypothesis.tokens)
            ends = [text.find(stop) for stop in stops if stop in text]
            if hypothesis.finish_reason == "stop" and ends:
                text = text[: min(ends)]
        return Completion(text, hypothesis.tokens, hypothesis.scores, hypothesis.finish_reason)

    def continued_text(self, prompt: list[int], tokens: list[int]) -> str:
        """What ``tokens`` add to the prompt's text: some tokenizers drop a space where a text begins."""
        before, whole = self.decode(prompt), self.decode(prompt + tokens)
        return whole[len(before) :] if whole.startswith(before) else self.decode(tokens)
