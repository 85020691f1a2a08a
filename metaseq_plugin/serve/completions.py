"""``POST /v1/completions``: OpenAI's request to jobs of the engine, and their text to its answers.

(1) the request becomes a plan, or is refused; (2) its jobs are queued, or it is refused; (3) pieces of text come,
and are answered at once when all are there, or each as an event with ``stream``.
"""

import asyncio
import secrets
import time
from typing import Any, AsyncIterator, Sequence, Union

from fastapi import APIRouter, Request, Response

from metaseq_plugin.generation.settings import Settings
from metaseq_plugin.serve.choices import Piece, logprobs_of
from metaseq_plugin.serve.errors import ApiError, responses
from metaseq_plugin.serve.events import EventStream, Run, answered
from metaseq_plugin.serve.plan import Wanted, plan
from metaseq_plugin.serve.protocol import (
    Choice,
    ChoicePiece,
    Chunk,
    Completion,
    CompletionRequest,
    ErrorResponse,
    Usage,
)
from metaseq_plugin.serve.service import Service

DONE = "[DONE]"
SPELLED = {
    "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_samples": "n",
    "num_top_scores": "logprobs",
    **{name: name for name in (
        "temperature", "top_k", "top_p", "top_p_decay", "top_p_floor", "seed", "presence_penalty",
        "frequency_penalty", "prompt_presence_penalty", "prompt_frequency_penalty", "logit_bias",
    )},
}  # fmt: skip
# What one event of a stream holds; OpenAPI 3.2's word, which FastAPI's own event streams use in 3.1 too.
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string"}},
    "oneOf": [
        {"properties": {"data": {"const": DONE}}},
        {
            "properties": {
                "data": {
                    "contentMediaType": "application/json",
                    "contentSchema": {
                        "anyOf": [
                            {"$ref": "#/components/schemas/Chunk"},
                            {"$ref": "#/components/schemas/ErrorResponse"},
                        ]
                    },
                }
            }
        },
    ],
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the choices; with `stream`, events `data: ‹Chunk›` and at last `data: [DONE]`",
        "content": {EventStream.media_type: {"itemSchema": EVENT}},
    },
    **responses(400, 401, 404, 408, 413, 429, 500, 503, 504),
}


def wanted_of(request: CompletionRequest, sentence_ends: tuple[int, ...]) -> Wanted:
    """The request in our words."""
    settings = Settings(
        min_new_tokens=request.min_tokens,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        prompt_presence_penalty=request.prompt_presence_penalty,
        prompt_frequency_penalty=request.prompt_frequency_penalty,
        top_p_decay=request.top_p_decay,
        top_p_floor=request.top_p_floor,
        sentence_ends=sentence_ends if request.top_p_decay < 1 else (),
        logit_bias=tuple((int(token), bias) for token, bias in request.logit_bias.items()),
    )
    stops = [request.stop] if isinstance(request.stop, str) else request.stop
    return Wanted(
        request.prompt, request.max_tokens, request.n, request.best_of, request.echo,
        False, request.logprobs, stops, settings, SPELLED,
    )  # fmt: skip


class Head:
    """What every part of an answer repeats."""

    def __init__(self, model: str) -> None:
        self.fields: dict[str, Any] = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }


def choice_of(index: int, piece: Piece, with_logprobs: bool) -> dict[str, Any]:
    logprobs = logprobs_of(piece.entries) if with_logprobs else None
    reason = piece.finish_reason
    return {"text": piece.text, "index": index, "logprobs": logprobs, "finish_reason": reason}


def usage_of(run: Run) -> Usage:
    read, made = run.prompt_tokens, run.new_tokens
    return Usage(prompt_tokens=read, completion_tokens=made, total_tokens=read + made)


def completion_of(
    run: Run, choices: Sequence[Piece], model: str, with_logprobs: bool
) -> Completion:
    """The answer to a request that does not stream."""
    made = [Choice(**choice_of(index, piece, with_logprobs)) for index, piece in enumerate(choices)]
    return Completion(**Head(model).fields, choices=made, usage=usage_of(run))


def event(content: str) -> str:
    return f"data: {content}\n\n"


async def events(run: Run, model: str, request: CompletionRequest) -> AsyncIterator[str]:
    """The answer to a request that streams; an error is its last event."""
    head = Head(model).fields
    with_logprobs = request.logprobs is not None
    try:
        async for index, piece in run.pieces():
            made = ChoicePiece(**choice_of(index, piece, with_logprobs))
            yield event(Chunk(**head, choices=[made]).model_dump_json())
    except ApiError as error:
        yield event(ErrorResponse(**error.body()).model_dump_json())
        return
    if request.stream_options.include_usage:
        yield event(Chunk(**head, choices=[], usage=usage_of(run)).model_dump_json())
    yield event(DONE)


def check_stream(request: CompletionRequest) -> None:
    """Refuse what makes no sense piece by piece, or only so."""
    if request.stream and request.best_of > request.n:
        raise ApiError(
            400,
            f"`best_of` must be `n` ({request.n}) with `stream`, for the best are known at the end, "
            f"but is {request.best_of}. Leave either out.",
            "best_of",
        )
    if "stream_options" in request.model_fields_set and not request.stream:
        raise ApiError(
            400,
            "`stream_options` must come with `stream`, but does not. Leave it out.",
            "stream_options",
        )


def routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/v1/completions", response_model=Completion, responses=ANSWERS, summary="Continue prompts"
    )
    async def create_completion(request: CompletionRequest, http: Request) -> Union[Response, Any]:
        loaded = service.ready()
        service.check_name(request.model)
        check_stream(request)
        wanted = wanted_of(request, loaded.opt.sentence_ends)
        # A long text takes its time to become tokens, in which others are to be answered.
        planned = await asyncio.to_thread(plan, wanted, loaded.opt, loaded.engine)
        run = Run(planned, service, f"{http.state.client}:{request.user}")
        model = service.options.name
        if request.stream:
            return EventStream(events(run, model, request), run)
        choices = await answered(http, run)
        if choices is None:  # the client is gone
            return Response(status_code=499)
        with_logprobs = request.logprobs is not None
        return await asyncio.to_thread(completion_of, run, choices, model, with_logprobs)

    return router
