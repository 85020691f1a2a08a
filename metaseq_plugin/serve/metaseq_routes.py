"""metaseq's four routes, for clients that were written for its service.

What was wrong with them is mended: each request has its own options, whatever else is in the batch; a stop text is
whole, not its first token; ``seed`` counts; ``finish_reason`` is true; a prompt that is too long is refused, not
shortened; penalties and ``top_p`` are not rounded.
"""

import asyncio
import time
import uuid
from typing import Any, Sequence, Union

from fastapi import APIRouter, Request, Response

from metaseq_plugin.generation.settings import Settings
from metaseq_plugin.serve.choices import Piece, logprobs_of
from metaseq_plugin.serve.completions import usage_of
from metaseq_plugin.serve.errors import responses
from metaseq_plugin.serve.events import Run, answered
from metaseq_plugin.serve.metaseq_protocol import (
    MetaseqChoice,
    MetaseqCompletion,
    MetaseqLogprobs,
    MetaseqRequest,
)
from metaseq_plugin.serve.plan import Wanted, plan
from metaseq_plugin.serve.service import Service

# The engine of the path was never looked at.
PATHS = (
    "/completions",
    "/engines/{engine}/completions",
    "/v1/engines/{engine}/completions",
    "/v2/engines/{engine}/completions",
)
SPELLED = {
    "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_samples": "n",
    "num_top_scores": "logprobs",
    "temperature": "temperature", "top_p": "top_p", "seed": "seed",
    "top_p_decay": "lambda_decay", "top_p_floor": "omega_bound",
    "presence_penalty": "alpha_presence", "frequency_penalty": "alpha_frequency",
    "prompt_presence_penalty": "alpha_presence_src",
    "prompt_frequency_penalty": "alpha_frequency_src",
}  # fmt: skip


def wanted_of(request: MetaseqRequest, sentence_ends: tuple[int, ...]) -> Wanted:
    """The request in our words."""
    decays = request.lambda_decay > 0
    settings = Settings(
        min_new_tokens=request.min_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        presence_penalty=request.alpha_presence,
        frequency_penalty=request.alpha_frequency,
        prompt_presence_penalty=request.alpha_presence_src,
        prompt_frequency_penalty=request.alpha_frequency_src,
        top_p_decay=request.lambda_decay if decays else 1.0,
        top_p_floor=request.omega_bound,
        sentence_ends=sentence_ends if decays else (),
    )
    stops = [request.stop] if isinstance(request.stop, str) else request.stop
    return Wanted(
        request.prompt, request.max_tokens, request.n, request.best_of, request.echo,
        True, request.logprobs, stops, settings, SPELLED,
    )  # fmt: skip


def choice_of(index: int, piece: Piece, with_top: bool) -> MetaseqChoice:
    logprobs = logprobs_of(piece.entries).model_dump()
    if not with_top:
        logprobs["top_logprobs"] = None
    reason: dict[str, Any] = {"finish_reason": piece.finish_reason}
    told = MetaseqLogprobs(**logprobs, **reason)
    return MetaseqChoice(text=piece.text, index=index, logprobs=told, **reason)


def completion_of(run: Run, pieces: Sequence[Piece], model: str, with_top: bool) -> Any:
    return MetaseqCompletion(
        id=str(uuid.uuid4()),
        created=int(time.time()),
        model=model,
        choices=[choice_of(index, piece, with_top) for index, piece in enumerate(pieces)],
        usage=usage_of(run),
    )


def routes(service: Service) -> APIRouter:
    router = APIRouter()

    async def complete(request: MetaseqRequest, http: Request) -> Union[Response, Any]:
        """Continue prompts, for clients of metaseq's service."""
        loaded = service.ready()
        wanted = wanted_of(request, loaded.opt.sentence_ends)
        planned = await asyncio.to_thread(plan, wanted, loaded.opt, loaded.engine)
        run = Run(planned, service, f"{http.state.client}:")
        pieces = await answered(http, run)
        if pieces is None:  # the client is gone
            return Response(status_code=499)
        with_top = request.logprobs > 0
        return await asyncio.to_thread(completion_of, run, pieces, service.options.name, with_top)

    async def complete_with(
        engine: str, request: MetaseqRequest, http: Request
    ) -> Union[Response, Any]:
        return await complete(request, http)

    complete_with.__doc__ = f"{complete.__doc__} `engine` is not looked at."
    for path in PATHS:
        router.add_api_route(
            path,
            complete_with if "{engine}" in path else complete,
            methods=["POST"],
            response_model=MetaseqCompletion,
            responses=responses(400, 401, 408, 413, 429, 500, 503, 504),
            summary="Continue prompts (metaseq)",
            operation_id=path.strip("/").replace("/", "_").replace("{engine}", "engine"),
        )
    return router
