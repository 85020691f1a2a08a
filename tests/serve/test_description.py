"""What is told of the server: OpenAPI's document, the table of fields, models, and the numbers for Prometheus."""

from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from metaseq_plugin.cli import main
from metaseq_plugin.hub import OPT
from scripts.api_page import PAGE, field_table, page
from tests.serve.tiny import NAME, POSITIONS, ask

STATUSES = (400, 401, 404, 408, 413, 429, 500, 503, 504)


def numbers(client: TestClient) -> dict[tuple[str, ...], float]:
    """Name and labels' values -> number."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_numbers_count_what_was_done(client: TestClient, opt: OPT) -> None:
    before = numbers(client)
    ask(client, prompt="the cat", max_tokens=7, min_tokens=7, seed=1)
    client.post("/v1/completions", json={"prompt": "a", "n": 0})
    client.get("/nowhere/at/all")
    after = numbers(client)

    def more(*name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more("metaseq_requests_total", "/v1/completions", "200") == 1
    assert more("metaseq_requests_total", "/v1/completions", "400") == 1
    assert more("metaseq_requests_total", "other", "404") == 1
    assert more("metaseq_new_tokens_total") == 7
    assert more("metaseq_prompt_tokens_total") == len(opt.encode("the cat")) + 1
    assert more("metaseq_first_token_seconds_count") == 1
    assert more("metaseq_token_seconds_count") == 1
    assert more("metaseq_queue_seconds_count") == 1
    assert after[("metaseq_waiting_jobs",)] == after[("metaseq_batch_rows",)] == 0


def test_models(client: TestClient) -> None:
    (card,) = client.get("/v1/models").json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == (NAME, "model", POSITIONS)
    assert client.get(f"/v1/models/{NAME}").json() == card


def test_the_document_says_what_is_true(app: FastAPI) -> None:
    document: dict[str, Any] = app.openapi()
    operation = document["paths"]["/v1/completions"]["post"]
    assert set(operation["responses"]) == {"200", *map(str, STATUSES)}
    assert set(operation["responses"]["200"]["content"]) == {
        "application/json",
        "text/event-stream",
    }
    assert "422" not in str(document["paths"])
    assert "HTTPValidationError" not in document["components"]["schemas"]
    fields = document["components"]["schemas"]["CompletionRequest"]
    assert fields["required"] == ["prompt"]
    assert fields["additionalProperties"] is False
    assert {"type": "null"} in fields["properties"]["temperature"]["anyOf"]
    assert {"type": "null"} not in fields["properties"]["prompt"]["anyOf"]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert document["security"] == [{}, {"key": []}]


def test_the_page_of_the_api_is_what_the_application_says(app: FastAPI) -> None:
    assert PAGE.read_text("utf-8") == page(app.openapi()), "run: python scripts/api_page.py"


def test_the_table_names_each_field_with_its_type_and_default(app: FastAPI) -> None:
    table = field_table(app.openapi(), "CompletionRequest", has_defaults=True).splitlines()
    fields = app.openapi()["components"]["schemas"]["CompletionRequest"]["properties"]
    assert [line.split("`")[1] for line in table[2:]] == list(fields)
    for row in (
        "| `temperature` | number from 0 to 100 | `1.0` | logits are divided by it; 0 takes the likeliest |",
        '| `stream_options` | `StreamOptions` | `{"include_usage": false}` | for `stream` |',
        "| `stop` | string or list of string | `[]` | texts before which a choice ends |",
        "| `suffix` | null | `null` | not offered: OPT only reads from left to right |",
    ):
        assert row in table
    answer = field_table(app.openapi(), "Choice", has_defaults=False).splitlines()
    assert answer[:2] == ["| field | type | meaning |", "| --- | --- | --- |"]
    assert answer[-1].startswith('| `finish_reason` | `"stop"` or `"length"` | ')


def test_each_field_of_a_request_has_its_meaning(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    for name in ("CompletionRequest", "StreamOptions", "MetaseqRequest"):
        for field, described in schemas[name]["properties"].items():
            assert described.get("description"), f"{name}.{field}"


def test_openapi_is_printed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--openapi"]) == 0
    assert '"/v1/completions"' in capsys.readouterr().out
