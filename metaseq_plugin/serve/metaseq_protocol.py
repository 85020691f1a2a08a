"""What metaseq's own clients send and expect: its field names, its defaults, its shape of an answer.

As in metaseq, numbers may come as text, and fields that are unknown are passed over. An answer has metaseq's fields
and, beside them, ``index``, ``finish_reason`` and ``usage``, which metaseq left out or put elsewhere.
"""

from typing import Literal, Optional

from pydantic import BaseModel, ConfigDict, Field

from metaseq_plugin.serve.protocol import (
    LARGEST_SEED,
    MAX_LOGPROBS,
    MAX_SAMPLES,
    MAX_TEMPERATURE,
    FinishReason,
    Logprobs,
    Penalty,
    Prompt,
    Request,
    Stop,
    Usage,
    with_null,
)


class MetaseqRequest(Request):
    """A request as metaseq's clients send it."""

    model_config = ConfigDict(
        strict=False, extra="ignore", allow_inf_nan=False, json_schema_extra=with_null
    )

    prompt: Prompt = Field(
        description="a text, token ids, or a list of either; `</s>` is put in front",
        examples=["The cat sat on"],
    )
    min_tokens: int = Field(0, ge=0, description="no choice ends by itself before so many tokens")
    max_tokens: Optional[int] = Field(
        None, ge=0, description="most new tokens; left out: as many as the model reads"
    )
    stop: Stop = Field([], description="texts before which a choice ends, of any number of tokens")
    temperature: float = Field(1.0, ge=0, le=MAX_TEMPERATURE, description="0 takes the likeliest")
    top_p: float = Field(
        1.0, ge=0, le=1, description="choose among the fewest tokens that reach this probability"
    )
    n: int = Field(1, ge=1, le=MAX_SAMPLES, description="choices per prompt")
    best_of: int = Field(0, ge=0, le=MAX_SAMPLES, description="samples per prompt; 0: `n`")
    logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS, description="likeliest tokens that are told")
    echo: bool = Field(False, description="begin with the prompt, its `</s>` included")
    seed: Optional[int] = Field(
        None, ge=-LARGEST_SEED, le=LARGEST_SEED, description="the same samples each time"
    )
    omega_bound: float = Field(0.3, ge=0, le=1, description="below which `top_p` never decays")
    lambda_decay: float = Field(
        -1.0, ge=-1, le=1,
        description="`top_p` is multiplied by it with each token of a sentence; 0 or less: it is not",
    )  # fmt: skip
    alpha_presence: Penalty = Field(
        0.0, description="taken off the logit of each token that the choice holds already"
    )
    alpha_frequency: Penalty = Field(0.0, description="taken off it as often as it is there")
    alpha_presence_src: Penalty = Field(
        0.0, description="as `alpha_presence`, for the prompt's tokens"
    )
    alpha_frequency_src: Penalty = Field(
        0.0, description="as `alpha_frequency`, for the prompt's tokens"
    )
    alpha_src_penalty_end_idx: Literal[-1] = Field(
        -1, description="penalties look at the whole prompt"
    )


class MetaseqLogprobs(Logprobs):
    top_logprobs: Optional[list[Optional[dict[str, float]]]] = Field(  # type: ignore[assignment]
        description="null with `logprobs` 0"
    )
    finish_reason: FinishReason = Field(description="where metaseq put it; now it is true")


class MetaseqChoice(BaseModel):
    text: str
    index: int
    logprobs: MetaseqLogprobs
    finish_reason: FinishReason


class MetaseqCompletion(BaseModel):
    """The answer to a request of metaseq's clients."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[MetaseqChoice]
    usage: Usage
