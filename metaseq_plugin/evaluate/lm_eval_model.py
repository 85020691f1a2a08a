"""``metaseq_opt``: the hub's ``OPT`` as a model of EleutherAI's lm-evaluation-harness.

    lm_eval --model metaseq_opt --model_args path=runs/quickstart --tasks arc_easy --batch_size auto

``compat/lm_eval_command.py`` makes the command know the name. lm_eval turns tasks into requests of three kinds,
and this class answers them:
(1) ``loglikelihood``: the log-probability of a text behind another one, and whether greedy decoding would give it;
(2) ``loglikelihood_rolling``: the log-probability of a whole text, window after window;
(3) ``generate_until``: how a text goes on, up to one of some texts.

Every token is put where lm_eval's own class ``hf`` puts it for the same model in Hugging Face's form: ``</s>`` before
every text, so that a rolling text, which lm_eval begins with a prefix, has two; a window that begins within a text
has none; what is too long is cut on the left.
"""

import logging
from typing import Any, Mapping, Optional, Sequence, Union

import torch
from tqdm import tqdm

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.token_rows import windows
from metaseq_plugin.generation.generator import batches
from metaseq_plugin.generation.likelihood import likelihoods
from metaseq_plugin.generation.options import SPELLED, Asked
from metaseq_plugin.generation.sampling import count_repeats
from metaseq_plugin.hub import OPT

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
except ModuleNotFoundError as error:
    raise UserError(
        f"lm_eval must be installed, but {error.name} is not. "
        "Install it: pip install 'metaseq-plugin[lm-eval]'."
    ) from error

logger = logging.getLogger(__name__)

SEPARATOR = "</s>"  # as Hugging Face's tokenizer reads it in a text
MAX_GEN_TOKS = 256  # lm_eval's own default
MODEL_ARGS = ("path", "data", "dtype", "trust_pickle")  # lm_eval has options for the others
# What a task calls the options of a generation, where it has other names than ours.
TASKS_NAMES = {"max_new_tokens": "max_gen_toks", "stop": "until", "beam": "num_beams"}

# A context and its continuation as texts, or None for a window; then the token ids of both.
TokenRequest = tuple[Optional[tuple[str, str]], Sequence[int], Sequence[int]]


def rows_at_once(batch_size: Union[int, str]) -> Optional[int]:
    """``--batch_size`` as rows; None, as many as fit into a batch of ours, for "auto"."""
    if str(batch_size).startswith("auto"):
        return None
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise UserError(
            f"`--batch_size` must be auto or at least 1, but is {batch_size}. Set auto."
        )
    return int(batch_size)


def present(device: Optional[str]) -> Optional[str]:
    """``--device``; without CUDA the CPU for lm_eval's default, which is a CUDA device whatever is there."""
    if device is None or not device.startswith("cuda") or torch.cuda.is_available():
        return device
    logger.warning("there is no %s here: the CPU computes", device)
    return "cpu"


class MetaseqOPT(TemplateLM):
    """A model that lm_eval can ask.

    Args:
        path, data, device, dtype, trust_pickle: as ``OPT.from_pretrained`` takes them.
        batch_size: most rows at once, or "auto"; texts that begin alike are scored in one row.

    Raises:
        UserError: what is wrong with the model's files, or an argument that is none.
    """

    def __init__(
        self,
        path: Optional[str] = None,
        data: Optional[str] = None,
        dtype: Optional[str] = None,
        device: Optional[str] = None,
        trust_pickle: bool = False,
        batch_size: Union[int, str] = "auto",
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown or path is None:
            given = f"has {next(iter(unknown))}" if unknown else "has no path"
            raise UserError(
                f"`--model_args` must be of {', '.join(MODEL_ARGS)}, the first of them always, but {given}. "
                "Set path=runs/quickstart, say."
            )
        self.batch_size = rows_at_once(batch_size)
        self.opt = OPT.from_pretrained(str(path), data, present(device), dtype, trust_pickle)
        if self.opt.tokenizer is None:
            raise UserError(
                f"`path` must have tokenizer files beside the weights, but {path} has none. "
                "Set data= to the folder that has them."
            )
        self.name = str(path)
        self.max_length = self.opt.generator.longest

    @property
    def eot_token_id(self) -> int:
        """``</s>``, which begins and ends texts."""
        return self.opt.generator.eos

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval keeps ``--cache_requests`` under."""
        return self.name.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: Optional[bool] = None, **ignored: Any
    ) -> list[int]:
        """Token ids of a text, behind ``</s>`` unless told otherwise; never behind two."""
        if add_special_tokens is False:
            return self.opt.encode(string)
        return [self.eot_token_id, *self.opt.encode(string.removeprefix(SEPARATOR))]

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **ignored: Any
    ) -> list[tuple[float, bool]]:
        """The sum of each continuation's log-probabilities, and whether each token is the likeliest one."""
        for _, _, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise UserError(
                    f"A continuation must have from 1 to {self.max_length} tokens, which the model reads, "
                    f"but one has {len(continuation)}. Leave its document out."
                )
        whole = [[*context, *continuation] for _, context, continuation in requests]
        rows = [row[-(self.max_length + 1) :] for row in whole]  # the last token is not read
        tell_of_cuts(sum(map(len, whole)) - sum(map(len, rows)))
        found: dict[int, tuple[float, bool]] = {}
        counts = [len(continuation) for _, _, continuation in requests]
        scored = likelihoods(self.opt.generator, rows, counts, batch_size=self.batch_size)
        with tqdm(total=len(rows), disable=disable_tqdm, desc="Scoring") as bar:
            for index, likelihood in scored:
                texts, _, _ = requests[index]
                found[index] = (likelihood.total, likelihood.is_greedy)
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, found[index])
                bar.update()
        return [found[index] for index in range(len(rows))]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each text, every token of it behind as many as the model reads."""
        texts = [request.args[0] for request in requests]
        pieces: list[TokenRequest] = []
        owners = []
        for number, text in enumerate(texts):
            for row in windows(self.tok_encode(text), self.prefix_token_id, self.max_length):
                pieces.append((None, row.tokens[: -row.num_scored], row.tokens[-row.num_scored :]))
                owners.append(number)
        totals = [0.0] * len(texts)
        for owner, (total, _) in zip(owners, self._loglikelihood_tokens(pieces, disable_tqdm)):
            totals[owner] += total
        for text, total in zip(texts, totals):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """How each context goes on, without the text that ended it."""
        given = [request.args for request in requests]  # (context, generation_kwargs)
        asked = [self.read_generation(options) for _, options in given]
        whole = [self.tok_encode(context) for context, _ in given]
        rows = [row[-self.room(one) :] for row, one in zip(whole, asked)]
        tell_of_cuts(sum(map(len, whole)) - sum(map(len, rows)))
        repeats = count_repeats(rows)
        found: dict[int, str] = {}
        limit = max((one.max_new_tokens for one in asked), default=0)
        with tqdm(total=len(rows), disable=disable_tqdm, desc="Generating") as bar:
            for chosen in self.batches(rows, limit):
                continued = self.opt.continue_rows(
                    [rows[i] for i in chosen],
                    [asked[i] for i in chosen],
                    [repeats[i] for i in chosen],
                    len(chosen),
                )
                for index, (best, *_) in zip(chosen, continued):
                    found[index] = best.text or ""
                    self.cache_hook.add_partial("generate_until", given[index], found[index])
                bar.update(len(chosen))
        return [found[index] for index in range(len(rows))]

    def read_generation(self, given: Mapping[str, Any]) -> Asked:
        """A task's ``generation_kwargs``, checked; whatever ``OPT.generate`` takes may be among them.

        Raises:
            UserError: an option that is none, or an impossible value.
        """
        options = dict(normalize_gen_kwargs(dict(given), MAX_GEN_TOKS))
        del options["do_sample"]  # lm_eval has made a temperature of it
        for ours, theirs in TASKS_NAMES.items():
            if theirs in options:
                options[ours] = options.pop(theirs)
        options["stop"] = [text for text in options["stop"] if text]
        options.setdefault("temperature", 0.0)
        options.setdefault("seed", torch.initial_seed() % 2**63)  # lm_eval's, told to torch
        return self.opt.read_options({**options, "with_scores": False}, {**SPELLED, **TASKS_NAMES})

    def room(self, asked: Asked) -> int:
        """Most tokens of a context, so that all new ones can be read behind it."""
        room = self.max_length - asked.max_new_tokens
        if room < 1:
            raise UserError(
                f"`max_gen_toks` must be below the {self.max_length} tokens that the model reads, but is "
                f"{asked.max_new_tokens}. Set --gen_kwargs max_gen_toks={self.max_length // 2}, say."
            )
        return room

    def batches(self, rows: Sequence[Sequence[int]], new_tokens: int = 0) -> list[list[int]]:
        """Indices of rows of like length; the longest first, so that memory runs out at once or never."""
        found = batches([len(row) for row in rows], new_tokens, 1, self.batch_size)
        return list(found)[::-1]


def tell_of_cuts(count: int) -> None:
    """Warn that so many tokens are not looked at."""
    if count:
        logger.warning("the model reads no longer texts: %d tokens are left out on the left", count)
