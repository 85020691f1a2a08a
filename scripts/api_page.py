"""Write docs/api.md, the reference of the server's API, from the application, or look whether it is written.

    python scripts/api_page.py            # write
    python scripts/api_page.py --check    # exit status 1 where the page says something else

The steps: (1) the application describes itself, as `metaseq serve --openapi` prints it; (2) its routes become a
table, and so does each schema that a reader needs; (3) the page is written, or compared.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Tuple

from metaseq_plugin.serve.app import build_app

PAGE = Path(__file__).resolve().parents[1] / "docs/api.md"
Document = Mapping[str, Any]

HEAD = """\
# What does the API take and give?

How to ask is in [serve.md](serve.md). This page is written by `scripts/api_page.py` from the application, which
`metaseq serve --openapi` prints for programs. `null` stands for a field's default."""


class Section(NamedTuple):
    title: str
    text: str
    schemas: Tuple[str, ...]
    has_defaults: bool = False


SECTIONS = (
    Section(
        "`POST /v1/completions`",
        "Types are strict: `\"5\"` is no number. A field that is not here is refused.",
        ("CompletionRequest", "StreamOptions"),
        has_defaults=True,
    ),
    Section(
        "Its answer",
        "With `stream`, each event is `data:` and the same object with one choice, whose `finish_reason` is `null` "
        "until its last. The end is `data: [DONE]`.",
        ("Completion", "Choice", "Logprobs", "Usage"),
    ),
    Section(
        "metaseq's `POST /completions`",
        "Numbers may come as text. A field that is not here is passed over.",
        ("MetaseqRequest",),
        has_defaults=True,
    ),
    Section(
        "Its answer, metaseq's",
        "As above, but that log-probabilities always come.",
        ("MetaseqCompletion", "MetaseqChoice", "MetaseqLogprobs"),
    ),
    Section("`GET /v1/models`", "Gives a list in `data`, and with a name behind it the one.", ("ModelCard",)),
    Section("Errors", "Every answer with a status from 400 on has `error`.", ("ErrorBody",)),
)  # fmt: skip


def page(document: Document) -> str:
    """The whole page."""
    parts = [HEAD, "## Routes", route_table(document)]
    for section in SECTIONS:
        parts += [f"## {section.title}", section.text]
        for name in section.schemas:
            about = document["components"]["schemas"][name].get("description", "")
            parts.append(f"`{name}`: {' '.join(about.split())}" if about else f"`{name}`:")
            parts.append(field_table(document, name, section.has_defaults))
    return "\n\n".join(parts) + "\n"


def route_table(document: Document) -> str:
    """Each route, what it does, and the statuses that it may answer with."""
    lines = ["| route | what it does | statuses |", "| --- | --- | --- |"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            does = operation.get("description", operation["summary"]).rstrip(".")
            statuses = ", ".join(sorted(operation["responses"]))
            lines.append(f"| `{method.upper()} {path}` | {does} | {statuses} |")
    return "\n".join(lines)


def field_table(document: Document, name: str, has_defaults: bool) -> str:
    """The fields of a schema: name, type, default where one can be left out, and meaning."""
    schema = document["components"]["schemas"][name]
    required = schema.get("required", ())
    head = ["field", "type", *(["default"] if has_defaults else ()), "meaning"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for field, described in schema["properties"].items():
        cells = [f"`{field}`", " or ".join(kinds(described)) or "null"]
        if has_defaults:
            default = f"`{json.dumps(described.get('default'))}`"
            cells.append("required" if field in required else default)
        lines.append(f"| {' | '.join([*cells, described.get('description', '')])} |")
    return "\n".join(lines)


def kinds(schema: Mapping[str, Any]) -> Iterator[str]:
    """The types that a field may have, in words; null is left out."""
    for one in schema.get("anyOf", [schema]):
        if "anyOf" in one:
            yield from kinds(one)
        elif "$ref" in one:
            yield f"`{one['$ref'].rsplit('/', 1)[-1]}`"
        elif one.get("type") == "array":
            yield f"list of {' or '.join(kinds(one['items']))}"
        elif "const" in one or "enum" in one:
            yield from (f"`{json.dumps(value)}`" for value in one.get("enum", [one.get("const")]))
        elif one.get("type") != "null":
            yield f"{one['type']}{bounds(one)}"


def bounds(schema: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    return "".join(f" {word} {schema[key]:.16g}" for key, word in words.items() if key in schema)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing, say whether it is current"
    )
    is_check = parser.parse_args().check
    current = page(build_app(None, None).openapi())
    if PAGE.exists() and PAGE.read_text("utf-8") == current:
        return 0
    if is_check:
        print("docs/api.md is out of date. Run python scripts/api_page.py.", file=sys.stderr)
        return 1
    PAGE.write_text(current, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
