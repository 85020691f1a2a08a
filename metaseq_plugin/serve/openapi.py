"""The description of the API, OpenAPI's document; docs/api.md is made of it.

metaseq serve --openapi > openapi.json
python scripts/api_page.py
"""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from metaseq_plugin.serve.protocol import Chunk

DESCRIPTION = (
    "An OPT model as OpenAI's completions API, and as metaseq's service. Errors are OpenAI's."
)


def describe(app: FastAPI, needs_key: bool) -> None:
    """Let ``app.openapi()`` tell what is true: keys, and 400 where FastAPI would say 422."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = made(app, needs_key)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def made(app: FastAPI, needs_key: bool) -> dict[str, Any]:
    found = get_openapi(
        title="metaseq",
        version=version("metaseq-plugin"),
        description=DESCRIPTION,
        routes=app.routes,
    )
    for path, operations in found["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if path == "/health":
                operation["security"] = []
    schemas = found["components"]["schemas"]
    # FastAPI lists what a whole body may be, and a chunk is the content of an event.
    chunk = Chunk.model_json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    schemas.update(chunk.pop("$defs"), Chunk=chunk)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"key": []}] if needs_key else [{}, {"key": []}]
    return found
