"""What the server has and how it is: ``/v1/models``, ``/health`` and ``/metrics``."""

from fastapi import APIRouter, Response

from metaseq_plugin.serve.errors import responses
from metaseq_plugin.serve.metrics import CONTENT_TYPE
from metaseq_plugin.serve.protocol import Health, ModelCard, ModelList
from metaseq_plugin.serve.service import Service


def routes(service: Service) -> APIRouter:
    router = APIRouter()

    def card() -> ModelCard:
        loaded = service.ready()
        longest = loaded.opt.generator.longest
        return ModelCard(id=service.options.name, created=loaded.created, max_model_len=longest)

    @router.get("/v1/models", response_model=ModelList, responses=responses(401, 503))
    async def list_models() -> ModelList:
        """The models: one."""
        return ModelList(data=[card()])

    # A name such as facebook/opt-125m has a slash.
    @router.get(
        "/v1/models/{model:path}", response_model=ModelCard, responses=responses(401, 404, 503)
    )
    async def retrieve_model(model: str) -> ModelCard:
        """One model."""
        service.check_name(model or "?")
        return card()

    @router.get("/health", response_model=Health, responses=responses(503))
    async def health() -> Health:
        """Whether requests are taken."""
        service.ready()
        return Health()

    @router.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {
                "description": "numbers in Prometheus' text format",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **responses(401),
        },
    )
    async def metrics() -> Response:
        """Queue, batch, tokens, times and answers, for Prometheus."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router
