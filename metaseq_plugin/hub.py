"""The Python door: load a model from wherever it lies, continue and score texts with it.

    from metaseq_plugin.hub import OPT
    opt = OPT.from_pretrained("runs/quickstart")     # run folder, checkpoint, HF folder, metaseq's files
    opt.generate(["def main("], max_new_tokens=40, top_p=0.9, seed=1)[0][0].text
    opt.score(["def main():"])[0].scores

A prompt is a string, or a list of token ids for models without tokenizer files. Every prompt begins
with ``</s>``, OPT's document separator: it is put in front unless the ids already begin with it.
"""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, Union

import torch
from fairseq.data import Dictionary
from torch import nn
from typing_extensions import Unpack

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.distributed.tensor_parallel import cut
from metaseq_plugin.formats.locate import is_hf, locate
from metaseq_plugin.formats.model import Model, read_model
from metaseq_plugin.formats.tensors import DTYPES, check_held
from metaseq_plugin.generation.batch import Batch, Request
from metaseq_plugin.generation.completion import Completion, Pieces, Scored, completions, pieces
from metaseq_plugin.generation.generator import Generator
from metaseq_plugin.generation.options import (
    MAX_NEW_TOKENS,
    SPELLED,
    Asked,
    Options,
    Prompt,
    name_of,
    read_options,
    sentence_ends_of,
    token_ids,
)
from metaseq_plugin.generation.sampling import count_repeats
from metaseq_plugin.generation.settings import Settings, check_settings, check_types
from metaseq_plugin.generation.stopping import StopTexts
from metaseq_plugin.launch.decoding_ranks import DecodingRanks, check_cut, gather_ranks
from metaseq_plugin.layout.grid import SINGLE, Grid
from metaseq_plugin.layout.held import pieces_of
from metaseq_plugin.models.opt import OPTDecoder, OPTLanguageModel
from metaseq_plugin.modules.decoding_weights import store_for_decoding_
from metaseq_plugin.modules.half_weight import HAS_FBGEMM
from metaseq_plugin.modules.linear import computes_in
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

# What each other rank runs, given the arguments of ``from_pretrained``.
OTHER_RANK = """
import json, sys
from metaseq_plugin.hub import OPT
OPT.from_pretrained(**json.loads(sys.argv[1]))
"""


def dictionary_of(model: Model) -> Dictionary:
    """The model's dictionary, or where no ``dict.txt`` is known one of the right size."""
    folder = model.data
    # In a folder of metaseq's, dict.txt does not number the tokens.
    if folder and (folder / DICTIONARY_FILE).is_file() and not (folder / METASEQ_VOCAB).is_file():
        dictionary = load_dictionary(folder)
        check_dictionary_size(len(dictionary), model.vocab_size, folder)
        return dictionary
    return numbered_dictionary(model.vocab_size)


def check_device(name: str) -> None:
    """Refuse a device that is not here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"`--device` must be cpu, cuda or cuda:N, but is {name}. Set cpu."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"`--device` must be one of this machine's {torch.cuda.device_count()} GPUs or cpu, "
            f"but is {name}. Set cpu."
        )


def tokenizer_of(model: Model) -> Optional[Tokenizer]:
    """The model's tokenizer, where its folder holds one."""
    if model.data is None or not has_tokenizer(model.data):
        return None
    tokenizer = from_folder(model.data)
    check_dictionary_size(len(tokenizer), model.vocab_size, model.data)
    return tokenizer


def build_model(
    source: Model,
    dictionary: Dictionary,
    device: torch.device,
    dtype: torch.dtype,
    grid: Grid = SINGLE,
) -> OPTLanguageModel:
    """The model on ``device``, or this rank's part, its matrices as decoding wants them.

    One tensor after the other: of each only what the model keeps is held when the next one is read.
    """
    with torch.device("meta"):
        model = OPTLanguageModel(OPTDecoder(source.cfg, dictionary)).requires_grad_(False)
    if grid.model_parallel_size > 1:
        check_cut(grid.model_parallel_size, source.cfg, source.vocab_size)
        cut(model, grid, sequence_parallel=False)
    for name, piece in pieces_of(model).items():
        tensor = source.tensors.piece(name, piece)
        placed = tensor.to(device=device, dtype=dtype)
        check_held(name, tensor, placed, "dtype")
        if dtype == torch.float16 and device.type == "cpu" and HAS_FBGEMM:
            placed = placed.float()  # rounded; ``store_for_decoding_`` holds it in 16 bits
        owner, _, own_name = name.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, own_name, nn.Parameter(placed, requires_grad=False))
        # Those around it that are complete now: what that takes in between, the next ones are read into.
        store_for_decoding_(model.get_submodule(owner.rpartition(".")[0]))
        kept = module.get_parameter(own_name)
        if placed is tensor and not (kept.is_mkldnn or kept.is_meta):
            kept.data = tensor.clone()  # in memory of its own, whatever becomes of the file
        release(tensor)
    return model.requires_grad_(False)


def check_computed(dtype: torch.dtype) -> None:
    """Refuse a data type that this CPU emulates."""
    if not computes_in(dtype):
        usable = [name for name, kind in DTYPES.items() if computes_in(kind)]
        raise UserError(
            f"`dtype` must be one that this CPU has instructions for ({', '.join(usable)}), but is "
            f"{str(dtype).removeprefix('torch.')}, which it would emulate. Set float32."
        )


class OPT:
    """A model, and its tokenizer where there is one.

    Attributes:
        tokenizer: None where no tokenizer files were found; then prompts must be token ids.
        dtype: that the weights are of. On a CPU those of float16 are held in 16 bits and multiplied in 32.
        ranks: those that hold the model together; ``ranks.lost`` says why it can be used no more.
    """

    def __init__(
        self,
        model: OPTLanguageModel,
        dictionary: Dictionary,
        tokenizer: Optional[Tokenizer],
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        self.model = model
        self.dictionary = dictionary
        self.tokenizer = tokenizer
        self.generator = Generator([model], dictionary)
        self.dtype = dtype or model.output_weight.dtype
        self.ranks = DecodingRanks(model.output_weight.device)

    @classmethod
    def from_pretrained(
        cls,
        path: Union[str, Path],
        data: Optional[Union[str, Path]] = None,
        device: Optional[Union[str, torch.device]] = None,
        dtype: Optional[str] = None,
        trust_pickle: bool = False,
        model_parallel_size: int = 1,
    ) -> "OPT":
        """Load a model.

        Args:
            path: whatever `metaseq convert` reads: a run folder (its best checkpoint, else its last),
                a checkpoint in one file or in parts, a Hugging Face folder, or metaseq's files.
            data: folder with ``dict.txt`` and tokenizer files; default: beside the weights, else
                the one the model was trained on.
            device: default: the accelerator, else the CPU.
            dtype: "float32", "float16" or "bfloat16"; default: float32 on CPUs, elsewhere as saved.
                16 bits halve the weights. A CPU must have instructions for what is asked; of float16, see ``dtype``.
            trust_pickle: let metaseq's files hold more than plain data. Such a file can run any
                program, so set this only if you trust who made it.
            model_parallel_size: over how many devices each matrix is cut. Under torchrun, which must
                have started as many processes, only that of rank 0 returns; else the other processes
                are started here, and ``close`` ends them.

        Raises:
            UserError: whatever is wrong with the files, in one sentence.
            LostRank: another rank ended.
        """
        if dtype is not None and dtype not in DTYPES:
            raise UserError(
                f"`dtype` must be one of {', '.join(DTYPES)}, but is {dtype}. Set float32."
            )
        if data is not None and not Path(data).is_dir():
            raise UserError(f"`data` must be a folder, but is {data}. Set the prepared folder.")
        if not is_hf(Path(path)):
            locate(Path(path))  # before other processes are started for it
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        check_device(str(device))
        asked = {
            "path": str(path), "data": None if data is None else str(data), "device": str(device),
            "dtype": dtype, "trust_pickle": trust_pickle, "model_parallel_size": model_parallel_size,
        }  # fmt: skip
        ranks = gather_ranks(
            model_parallel_size, torch.device(device), ["-c", OTHER_RANK, json.dumps(asked)]
        )
        with ranks.agreeing():
            folder = None if data is None else Path(data)
            source = read_model(Path(path), folder, trust_pickle, ranks.peers)
            default = torch.float32 if ranks.device.type == "cpu" else source.dtype
            chosen = DTYPES[dtype] if dtype else default
            if ranks.device.type == "cpu":
                check_computed(chosen)
            dictionary, tokenizer = dictionary_of(source), tokenizer_of(source)
            model = build_model(source, dictionary, ranks.device, chosen, ranks.grid)
            opt = cls(model, dictionary, tokenizer, chosen)
        ranks.take_places([model])
        opt.ranks = ranks
        return opt

    def close(self) -> None:
        """End the other ranks, of a model that is cut over several; it cannot be used any more."""
        self.ranks.close()

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
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        batch_size: Optional[int] = None,
        **options: Unpack[Options],
    ) -> list[list[Completion]]:
        """Continue each prompt; per prompt, samples in order, or the best first of a search or ``best_of``.

        Args:
            max_new_tokens: most new tokens, the ending ``</s>`` included; capped at what the model
                can read.
            batch_size: most rows at once; default: as many as fit into ``MAX_BATCH_TOKENS``.
            options: ``temperature=0.7, top_p=0.9, seed=1, stop="."`` and so on:
                ``generation/options.py`` lists them with their meanings; defaults are those of
                ``Settings``. With a seed, a prompt gets the same samples whatever the other prompts
                are; of equal prompts, the second gets other samples than the first.

        Raises:
            UserError: impossible options, a prompt that cannot be read, or logits that are not finite.
        """
        asked = self.read_options({**options, "max_new_tokens": max_new_tokens})
        check_types({"batch_size": batch_size}, SPELLED)
        rows = self.rows_of(prompts)
        return self.continue_rows(rows, [asked] * len(rows), count_repeats(rows), batch_size)

    def stream(
        self, prompt: Prompt, max_new_tokens: int = MAX_NEW_TOKENS, **options: Unpack[Options]
    ) -> Pieces:
        """Continue one prompt, and tell each piece of the text once it is certain.

            for piece in opt.stream("Once upon a time", seed=1):
                print(piece.text, end="", flush=True)

        The pieces together are what ``generate`` gives for the same options; the last one has the
        ``finish_reason``. No piece holds a part of a stop text or of a character. Whoever leaves the
        loop early ends the work: ``close`` the iterator, or let go of it.

        Raises:
            UserError: as ``generate``, at once; more than one sample, or beam search.
        """
        asked = self.read_options({**options, "max_new_tokens": max_new_tokens})
        for name, value in (
            ("beam", asked.settings.beam),
            ("num_samples", asked.settings.num_samples),
        ):
            if value > 1:
                name = "best_of" if asked.is_ranked and name == "num_samples" else name
                raise UserError(
                    f"`{name}` must be 1 to stream, but is {value}. Leave it out, or use `generate`."
                )
        (row,) = self.rows_of([prompt])
        self.generator.check_prompts([row])
        batch = Batch(self.generator.models, self.generator.pad, self.generator.eos)
        return pieces(batch, self.request(row, asked)._replace(streamed=True), asked, self.decoder)

    def score(
        self, inputs: Sequence[Prompt], batch_size: Optional[int] = None, top_scores: int = 0
    ) -> list[Scored]:
        """Log-probability of every token of every input, the first one given ``</s>``.

        Args:
            top_scores: tell so many of the likeliest tokens in the place of each.

        Raises:
            UserError: an input that cannot be read, or logits that are not finite.
        """
        check_types({"batch_size": batch_size}, SPELLED)
        check_settings(
            Settings(num_top_scores=top_scores), MAX_NEW_TOKENS, SPELLED, len(self.dictionary)
        )
        rows = self.rows_of(inputs)
        scores = self.generator.score(rows, batch_size, top_scores)
        return [Scored(row[1:], *found) for row, found in zip(rows, scores)]

    def read_options(
        self, options: Mapping[str, Any], spelled: Mapping[str, str] = SPELLED
    ) -> Asked:
        """Options by name, checked; ``spelled`` says how the user writes them."""
        has_text = self.tokenizer is not None
        asked = read_options(options, len(self.dictionary), has_text, spelled)
        if asked.settings.top_p_decay == 1:
            return asked
        return asked._replace(settings=replace(asked.settings, sentence_ends=self.sentence_ends))

    @cached_property
    def sentence_ends(self) -> tuple[int, ...]:
        """The tokens that end a sentence, behind which a factual nucleus is whole again."""
        return () if self.tokenizer is None else sentence_ends_of(self.tokenizer)

    def rows_of(self, inputs: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each input behind one ``</s>``; of an empty text only that."""
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
                [self.generator.eos, *self.encode(prompt)]
                if isinstance(prompt, str)
                else token_ids(prompt, name_of(number, len(inputs)))
                for number, prompt in enumerate(inputs)
            ]
        )

    def continue_rows(
        self,
        rows: Sequence[Sequence[int]],
        asked: Sequence[Asked],
        repeats: Sequence[int],
        batch_size: Optional[int] = None,
    ) -> list[list[Completion]]:
        """Continue ``rows`` of ``rows_of``, each as it is asked, together.

        Args:
            repeats: as ``count_repeats`` gives them.
        """
        self.generator.check_prompts(rows)
        requests = [
            self.request(row, one, repeat) for row, one, repeat in zip(rows, asked, repeats)
        ]
        continued = self.generator.answer(requests, batch_size)
        return [
            completions(row, found, one, self.decoder)
            for row, found, one in zip(rows, continued, asked)
        ]

    def request(self, row: Sequence[int], asked: Asked, repeat: int = 0) -> Request:
        """What a batch is asked; ``repeat`` as in ``count_repeats``."""
        stop = StopTexts(asked.stops, self.decode) if asked.stops else None
        return Request(row, asked.max_new_tokens, asked.settings, repeat, stop)

    @property
    def decoder(self) -> Optional[Callable[[Sequence[int]], str]]:
        """``decode`` where the model has a tokenizer."""
        return None if self.tokenizer is None else self.decode
