"""The description of the API: OpenAPI's document, and a Markdown table of a request's fields for the docs.

metaseq serve --openapi > openapi.json
"""

import json
from importlib.metadata import version
from typing import Any, Iterator, Mapping

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

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
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"key": []}] if needs_key else [{}, {"key": []}]
    return found


def field_table(document: Mapping[str, Any], name: str) -> str:
    """The fields of a schema of the document as a Markdown table: name, type, default, meaning."""
    schema = document["components"]["schemas"][name]
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    required = schema.get("required", [])
    for field, described in schema["properties"].items():
        default = "required" if field in required else f"`{json.dumps(described.get('default'))}`"
        kind = " or ".join(kinds(described)).replace("|", "\\|")
        lines.append(f"| `{field}` | {kind} | {default} | {described.get('description', '')} |")
    return "\n".join(lines)


def kinds(schema: Mapping[str, Any]) -> Iterator[str]:
    """The types that a field may have, in words."""
    if "anyOf" in schema:
        for one in schema["anyOf"]:
            if one.get("type") != "null":
                yield from kinds(one)
    elif "$ref" in schema:
        yield schema["$ref"].rsplit("/", 1)[-1]
    elif schema.get("type") == "array":
        yield f"list of {' or '.join(kinds(schema['items']))}"
    elif schema.get("type") == "object":
        yield "object"
    else:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        bounds = "".join(
            f" {word} {value:.0f}" if value == int(value) else f" {word} {value}"
            for word, value in (("from", low), ("to", schema.get("maximum")))
            if value is not None
        )
        yield f"{schema.get('type', 'null')}{bounds}"
