"""What a request to ``/v1/completions`` may hold and what an answer holds: OpenAI's names, then ours.

A field that is null is left out, so each has one type in Python; ``null_is_left_out`` and ``with_null`` say it to
the parser and to the schema. Types are strict: "5" is no number. What needs the model to be known (lengths, token
ids) is checked in ``plan``. Of a list with many faults only the first is looked for: each costs time and memory.
"""

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1000
MAX_LOGPROBS = 20
MAX_SAMPLES = 128
MAX_TEMPERATURE = 100.0
MAX_FIELDS = 100
MAX_BIASES = 1000
LARGEST_SEED = 2**53 - 1  # what every JSON parser keeps exact


def few_biases(given: Any) -> Any:
    """``given``, unless it has more entries than are looked at."""
    if isinstance(given, dict) and len(given) > MAX_BIASES:
        raise PydanticCustomError("too_long", "too many entries", {"max_length": MAX_BIASES})
    return given


StrictId = Annotated[int, Field(strict=True)]
StrictText = Annotated[str, Field(strict=True)]
Ids = Annotated[list[StrictId], Field(min_length=1, fail_fast=True)]
Prompt = Union[
    StrictText,
    Annotated[list[StrictText], Field(min_length=1, fail_fast=True)],
    Ids,
    Annotated[list[Ids], Field(min_length=1, fail_fast=True)],
]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stop = Union[StopText, Annotated[list[StopText], Field(max_length=MAX_STOPS)]]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


def with_null(schema: dict[str, Any]) -> None:
    """Say in a model's JSON schema that null stands for a field's default."""
    for described in schema["properties"].values():
        if "default" not in described and "default_factory" not in described:
            continue
        kind = {key: described.pop(key) for key in list(described) if key not in OF_A_FIELD}
        described["anyOf"] = [*kind.pop("anyOf", [kind] if kind else []), {"type": "null"}]


OF_A_FIELD = ("title", "description", "default", "examples")


class Request(BaseModel):
    """What requests have in common."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, json_schema_extra=with_null
    )

    @model_validator(mode="before")
    @classmethod
    def null_is_left_out(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if len(given) > MAX_FIELDS:
            raise PydanticCustomError(
                "too_many_fields", "too many fields", {"max_length": MAX_FIELDS}
            )
        return {name: value for name, value in given.items() if value is not None}


class StreamOptions(Request):
    include_usage: bool = Field(False, description="a last event without choices tells `usage`")


class CompletionRequest(Request):
    """A request to continue one or several prompts."""

    model: str = Field(
        "", description="a name that `GET /v1/models` lists; left out: the one that is served"
    )
    prompt: Prompt = Field(
        description="a text, token ids, or a list of either; `</s>` is put in front unless the ids begin with it",
        examples=["The cat sat on"],
    )
    max_tokens: int = Field(16, ge=0, description="most new tokens; 0 with `echo` only scores")
    temperature: float = Field(
        1.0, ge=0, le=MAX_TEMPERATURE, description="logits are divided by it; 0 takes the likeliest"
    )
    top_p: float = Field(
        1.0, ge=0, le=1, description="choose among the fewest tokens that reach this probability"
    )
    n: int = Field(1, ge=1, le=MAX_SAMPLES, description="choices per prompt")
    best_of: int = Field(
        0, ge=0, le=MAX_SAMPLES,
        description="samples per prompt, of which the `n` likeliest per token are given; 0: `n`",
    )  # fmt: skip
    stream: bool = Field(False, description="answer piece by piece, as server-sent events")
    stream_options: StreamOptions = Field(
        StreamOptions(include_usage=False), description="for `stream`"
    )
    logprobs: Optional[int] = Field(
        None, ge=0, le=MAX_LOGPROBS,
        description="log-probabilities of the tokens, and of so many likeliest in their places",
    )  # fmt: skip
    echo: bool = Field(False, description="begin the text with the prompt")
    stop: Stop = Field([], description="texts before which a choice ends")
    presence_penalty: Penalty = Field(
        0.0, description="taken off the logit of each token that the choice holds already"
    )
    frequency_penalty: Penalty = Field(0.0, description="taken off it as often as it is there")
    logit_bias: Annotated[dict[TokenKey, Bias], BeforeValidator(few_biases)] = Field(
        {}, max_length=MAX_BIASES, description="token id → what is added to its logit"
    )
    seed: Optional[int] = Field(
        None, ge=-LARGEST_SEED, le=LARGEST_SEED, description="the same samples each time"
    )
    user: str = Field("", max_length=200, description="whose request it is: users take turns")
    suffix: None = Field(None, description="not offered: OPT only reads from left to right")
    # Beyond OpenAI's
    top_k: int = Field(0, ge=0, description="choose among the k likeliest tokens; 0: among all")
    min_tokens: int = Field(0, ge=0, description="no choice ends by itself before so many tokens")
    prompt_presence_penalty: Penalty = Field(
        0.0, description="as `presence_penalty`, for the prompt's tokens"
    )
    prompt_frequency_penalty: Penalty = Field(
        0.0, description="as `frequency_penalty`, for the prompt's tokens"
    )
    top_p_decay: float = Field(
        1.0, gt=0, le=1, description="`top_p` is multiplied by it with each token of a sentence"
    )
    top_p_floor: float = Field(0.3, ge=0, le=1, description="below which `top_p` never decays")


class Logprobs(BaseModel):
    """What is known of the tokens of a choice, one entry a token.

    A token that is no text by itself is written `bytes:\\x…`, a special one by its name. Where two tokens of
    one place read the same, the one that was not taken is `token_id:…`.
    """

    tokens: list[str] = Field(description="as text")
    token_logprobs: list[Optional[float]] = Field(
        description="natural logarithms; null of a `</s>` that begins the prompt"
    )
    top_logprobs: list[Optional[dict[str, float]]] = Field(
        description="the likeliest tokens of each place, with the one that was taken"
    )
    text_offset: list[int] = Field(description="where in `text` each begins, in characters")


FinishReason = Literal["stop", "length"]


class Choice(BaseModel):
    text: str
    index: int = Field(description="number of the prompt · `n` + number of the sample")
    logprobs: Optional[Logprobs] = None
    finish_reason: FinishReason = Field(
        description="`stop`: by itself, or before a text of `stop`; `length`: at `max_tokens`"
    )


class Usage(BaseModel):
    prompt_tokens: int = Field(description="each prompt once, with the `</s>` before it")
    completion_tokens: int = Field(description="all that were chosen, for `best_of` too")
    total_tokens: int


class Completion(BaseModel):
    """The answer to a request without `stream`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="seconds since 1970")
    model: str
    choices: list[Choice]
    usage: Usage


class ChoicePiece(Choice):
    finish_reason: Optional[FinishReason] = None  # type: ignore[assignment]  # of the last piece only


class Chunk(BaseModel):
    """One event of a stream; behind the last stands `data: [DONE]`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[ChoicePiece]
    usage: Optional[Usage] = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when it was loaded")
    owned_by: str = "metaseq-plugin"
    max_model_len: int = Field(description="most tokens of a prompt with its `</s>`")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class ErrorBody(BaseModel):
    message: str = Field(description="what is wrong, and what to set")
    type: str = Field(description="the kind of error, as OpenAI calls it")
    param: Optional[str] = Field(None, description="the field that it is about")
    code: Optional[str] = Field(None, description="what a program may look for")


class ErrorResponse(BaseModel):
    error: ErrorBody
