"""What a caller asks of a generation, by name: from Python, on a command line or in a file of prompts.

    asked = read_options({"top_p": 0.9, "stop": "."}, vocab_size=50272, has_text=True)
    asked.settings, asked.stops

``MEANINGS`` lists every option with its meaning, for helps and pages; ``Options`` has their types. Their
defaults are those of ``Settings``. ``read_options`` turns names into ``Settings`` and what is done beside
them, and refuses what is impossible, all in one message.
"""

from dataclasses import fields
from typing import Any, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np
from torch import Tensor
from typing_extensions import TypedDict

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.settings import KINDS, Settings, check_settings, is_whole
from metaseq_plugin.tokenizers.base import Tokenizer

Prompt = Union[str, Sequence[int]]

MAX_NEW_TOKENS = 64  # unless the caller says how many
SENTENCE_ENDS = (".", "?", "!")

# How Python's callers write the names of ``Settings`` and of what is asked beside them.
SPELLED = {
    **{field.name: field.name for field in fields(Settings)},
    **{name: name for name in ("max_new_tokens", "batch_size", "best_of", "stop", "echo")},
    "num_top_scores": "top_scores",
}

MEANINGS = {
    "max_new_tokens": "most new tokens, the end of the document included",
    "min_new_tokens": "new tokens before the text may end",
    "temperature": "divides the logits: below 1 bolder, above 1 more varied; 0 takes the likeliest token",
    "top_k": "choose among the K likeliest tokens; 0: all",
    "top_p": "then among the fewest that together reach probability P",
    "top_p_decay": "factual nucleus: multiplies top_p with each new token of a sentence",
    "top_p_floor": "factual nucleus: top_p falls no lower",
    "presence_penalty": "taken off the logit of tokens that the new text has",
    "frequency_penalty": "the same, as often as the new text has the token",
    "prompt_presence_penalty": "taken off the logit of tokens that the prompt has",
    "prompt_frequency_penalty": "the same, as often as the prompt has the token",
    "logit_bias": "token ids and what is added to their logits",
    "beam": "above 1: beam search with so many hypotheses, all returned",
    "length_penalty": "beam search ranks by the sum of scores / length to this power",
    "num_samples": "independent continuations of each prompt",
    "best_of": "draw so many, and return the num_samples likeliest per token",
    "seed": "the same samples each time; unset: others each time",
    "stop": "texts that end a continuation, which is cut before them",
    "echo": "the result begins with the prompt",
    "with_scores": "the log-probability of every token; False saves a few percent",
    "top_scores": "so many likeliest tokens beside each token",
}


class Options(TypedDict, total=False):
    """The options of ``OPT.generate`` and ``OPT.stream`` beside ``max_new_tokens``; see ``MEANINGS``."""

    min_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    top_p_decay: float
    top_p_floor: float
    presence_penalty: float
    frequency_penalty: float
    prompt_presence_penalty: float
    prompt_frequency_penalty: float
    logit_bias: Mapping[int, float]
    beam: int
    length_penalty: float
    num_samples: int
    best_of: Optional[int]
    seed: Optional[int]
    stop: Union[str, Sequence[str]]
    echo: bool
    with_scores: bool
    top_scores: int


class Asked(NamedTuple):
    """What was asked, checked."""

    settings: Settings  # of ``best_of`` samples where that is asked for, and with their scores
    max_new_tokens: int
    stops: tuple[str, ...]
    num_samples: int  # how many of them are returned
    is_ranked: bool  # whether those are the best; else the first
    echo: bool
    with_scores: bool  # whether they are returned with scores


def default_of(name: str) -> Any:
    """What an option is where it is not given; None or empty where it is then off."""
    beside: dict[str, Any] = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "best_of": None,
        "stop": (),
        "logit_bias": {},
        "echo": False,
        "top_scores": Settings.num_top_scores,
    }
    return beside[name] if name in beside else vars(Settings)[name]


def read_options(
    options: Mapping[str, Any],
    vocab_size: int,
    has_text: bool,
    spelled: Mapping[str, str] = SPELLED,
) -> Asked:
    """Settings, and what is done beside them, from options by name.

    Args:
        has_text: whether the model has a tokenizer; without one, stops cannot be looked for.
        spelled: name -> how this caller's user writes it.

    Raises:
        UserError: a name that is none, a value of a wrong type, or an impossible one.
    """
    unknown = sorted(options.keys() - MEANINGS.keys())
    if unknown:
        raise UserError(
            f"An option must be one of {', '.join(MEANINGS)}, but is {unknown[0]}. Set one of them."
        )
    # NumPy's numbers become Python's, which have methods that those lack.
    given = {n: v.item() if isinstance(v, np.generic) else v for n, v in options.items()}
    max_new_tokens = given.pop("max_new_tokens", MAX_NEW_TOKENS)
    best_of, stop, echo = (
        given.pop(name, default_of(name)) for name in ("best_of", "stop", "echo")
    )
    num_samples = given.get("num_samples", Settings.num_samples)
    with_scores = given.get("with_scores", Settings.with_scores)
    check_beside(best_of, echo, num_samples, with_scores, spelled)
    if best_of is not None:
        given.update(num_samples=best_of, with_scores=True)
        spelled = {**spelled, "num_samples": spelled["best_of"]}
    if "top_scores" in given:
        given["num_top_scores"] = given.pop("top_scores")
    if "logit_bias" in given:
        given["logit_bias"] = bias_of(given["logit_bias"], spelled)
    settings = Settings(**given, with_prompt_scores=bool(echo and with_scores))
    check_settings(settings, max_new_tokens, spelled, vocab_size)
    stops = read_stops(stop, settings.beam, has_text, spelled)
    return Asked(
        settings, max_new_tokens, stops, num_samples, best_of is not None, bool(echo), with_scores
    )


def check_beside(
    best_of: Any, echo: Any, num_samples: Any, with_scores: Any, spelled: Mapping[str, str]
) -> None:
    """Refuse what is not handed to ``Settings`` as it is."""
    problems = [
        f"`{spelled[name]}` must be {KINDS[kind].words}, but is {value!r}. {KINDS[kind].remedy}"
        for name, value, kind in (
            ("best_of", best_of, Optional[int]),
            ("num_samples", num_samples, int),
            ("echo", echo, bool),
            ("with_scores", with_scores, bool),
        )
        if not KINDS[kind].fits(value)
    ]
    if not problems and best_of is not None and best_of < num_samples:
        problems = [
            f"`{spelled['best_of']}` must be at least `{spelled['num_samples']}` ({num_samples}), "
            f"but is {best_of}. Set either."
        ]
    if problems:
        raise UserError(*problems)


def bias_of(bias: Any, spelled: Mapping[str, str]) -> tuple[tuple[int, float], ...]:
    """The pairs of {token id: number}, by token; ids may be digits, as JSON has them."""
    pairs: dict[Any, Any] = dict(bias) if isinstance(bias, Mapping) else {"": None}
    try:
        found = {int(t): v for t, v in pairs.items() if is_whole(t) or isinstance(t, str)}
    except ValueError:
        found = {}
    if len(found) < len(pairs) or not all(map(KINDS[float].fits, found.values())):
        raise UserError(
            f"`{spelled['logit_bias']}` must give token ids each a number, but is {bias!r}. "
            "Set {464: -100.0}, say."
        )
    return tuple(sorted((token, float(value)) for token, value in found.items()))


def sentence_ends_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens whose text ends a sentence."""
    return tuple(
        token
        for token in range(len(tokenizer))
        if tokenizer.decode([token]).endswith(SENTENCE_ENDS)
    )


def read_stops(
    stop: object, beam: int, has_text: bool, spelled: Mapping[str, str]
) -> tuple[str, ...]:
    """The stop texts of a text or a list of them."""
    stops = [stop] if isinstance(stop, str) else stop
    name = spelled["stop"]
    if not isinstance(stops, Sequence) or not all(isinstance(text, str) for text in stops):
        raise UserError(
            f'`{name}` must be a text or a list of texts, but is {stop!r}. Set ["."], say.'
        )
    if stops and (beam > 1 or not has_text or "" in stops):
        reason = f"`{spelled['beam']}` is above 1" if beam > 1 else "the model has no tokenizer"
        raise UserError(
            f"`{name}` must be left out, or hold non-empty texts, with a tokenizer and "
            f"`{spelled['beam']}` 1, but is {list(stops)}{'' if '' in stops else ', and ' + reason}. "
            "Leave it out."
        )
    return tuple(stops)


def name_of(number: int, count: int) -> str:
    """How messages call prompt ``number`` of ``count``."""
    return "it" if count == 1 else f"prompt {number}"


def token_ids(prompt: Any, name: str) -> list[int]:
    """``prompt`` as Python's integers: a list, an array or a tensor of whole numbers, (T,).

    Args:
        name: as ``name_of`` gives it.

    Raises:
        UserError: it is something else, or holds something else.
    """
    ids = prompt.tolist() if isinstance(prompt, (np.ndarray, Tensor)) else prompt
    if not isinstance(ids, Sequence) or isinstance(ids, bytes):
        raise UserError(
            f"A prompt must be a text or a list of token ids, but {name} is {prompt!r}. "
            "Set [[31414, 232]], a list of such prompts."
        )
    wrong = [token for token in ids if not is_whole(token)]
    if wrong:
        raise UserError(
            f"A prompt's token ids must be whole numbers, but {name} holds {wrong[0]!r}. "
            "Use those that `encode` gives."
        )
    return [int(token) for token in ids]
