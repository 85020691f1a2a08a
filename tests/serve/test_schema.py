"""The OpenAPI document held against the server by schemathesis: requests made from it, and broken ones.

None is answered by a fault of the server's, nor with a status, a content type or a form that the document does not
tell of. What the document allows may still be refused: two fields may contradict each other, or the model.
"""

from typing import Any, Iterator

import pytest

from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve import completions
from metaseq_plugin.serve.app import build_app
from metaseq_plugin.serve.completions import event
from metaseq_plugin.serve.loading import make_batch
from metaseq_plugin.serve.options import Options
from tests.serve.tiny import NAME

hypothesis = pytest.importorskip("hypothesis")
schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = 40  # per route and mode
CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance",
]  # fmt: skip
# Types are strict there; metaseq took "5" for 5, and its routes do.
STRICT = ("POST /v1/completions",)


@pytest.fixture(scope="module")
def schema(opt: OPT) -> Iterator[Any]:
    engine = Engine(make_batch(opt, 4096), 4096, 16)
    app = build_app(opt, engine, Options(name=NAME))
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    engine.close(drains=False)


def test_a_stream_is_what_the_document_says(schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = schema["/v1/completions"]["POST"]
    asked = {"prompt": "the cat", "stream": True, "max_tokens": 3, "logprobs": 1}

    def hold() -> None:
        case = operation.Case(body=asked, media_type="application/json")
        response = case.call()
        assert response.headers["content-type"][0].startswith("text/event-stream")
        case.validate_response(response, checks=checks_of(*CHECKS))

    hold()
    for right, wrong in (
        ("text_completion", "chat"),
        ('"choices":', '"choice":'),
        ("[DONE]", "DONE"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(
                completions,
                "event",
                lambda text, found=right, put=wrong: event(text.replace(found, put)),
            )
            with pytest.raises(schemathesis.core.failures.FailureGroup, match="event"):
                hold()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_document_is_true(schema: Any, mode: str) -> None:
    seen: set[tuple[str, int]] = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        if mode == "positive" or operation.body:  # any path is a model's name
            seen |= statuses(operation, mode)
    assert ("POST /v1/completions", 200 if mode == "positive" else 400) in seen


def checks_of(*names: str) -> Any:
    schemathesis.checks.load_all_checks()
    return schemathesis.checks.CHECKS.get_by_names(names)


def statuses(operation: Any, mode: str) -> set[tuple[str, int]]:
    """What was answered to requests made for ``operation``, each answer checked."""
    strict = ["negative_data_rejection"] if operation.label in STRICT else []
    checks = checks_of(*CHECKS, *strict)
    seen = set()

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def hold(case: Any) -> None:
        response = case.call()
        seen.add((operation.label, response.status_code))
        case.validate_response(response, checks=checks)

    hold()
    return seen
