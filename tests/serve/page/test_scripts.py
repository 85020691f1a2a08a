"""The scripts of the page by themselves, in the browser: server-sent events, spelling, stop texts."""

import json
from typing import Any, Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page

from tests.serve.page.stub import Stub, running

# bytes of a stream -> the events' data
STREAMS = [
    (b"data: one\n\ndata: two\n\n", ["one", "two"]),
    (b"data: one\r\n\r\ndata: two\r\n\r\n", ["one", "two"]),
    (b"data: one\r\rdata: two\r\r", ["one", "two"]),
    (b"data:one\ndata: two\n\n", ["one\ntwo"]),
    (b"data:  two spaces\n\n", [" two spaces"]),
    (b"data\n\ndata:\n\n", ["", ""]),
    (b": a comment\nevent: x\nid: 1\nretry: 5\ndata: one\n\n: ping\n\n", ["one"]),
    (b"data: a:b: c\n\n", ["a:b: c"]),
    (b"\n\n\ndata: one\n\n\n\n", ["one"]),
    (b"data: whole\n\ndata: cut", ["whole"]),
    (b"data: whole\n\ndata: cut\n", ["whole"]),
    (b"", []),
    ("\ufeffdata: é😀\u2028x\n\ndata: \u202e😁\n\n".encode(), ["é😀\u2028x", "\u202e😁"]),
    (b"database: no\ndata: yes\n\n", ["yes"]),
]

READ = """
async ([bytes, cuts]) => {
  const { eventsOf } = await import("/page/events.js");
  const all = [];
  for (const places of cuts) {
    const edges = [0, ...places, bytes.length];
    const body = new ReadableStream({
      start(controller) {
        for (let i = 1; i < edges.length; i++)
          controller.enqueue(new Uint8Array(bytes.slice(edges[i - 1], edges[i])));
        controller.close();
      },
    });
    const found = [];
    for await (const data of eventsOf(body)) found.push(data);
    all.push(JSON.stringify(found));
  }
  return [...new Set(all)];
}
"""


@pytest.fixture(scope="module")
def scripts(browser: Browser) -> Iterator[Page]:
    """One page for all: nothing is done to it."""
    with running(Stub().app()) as origin:
        page = browser.new_page()
        page.goto(origin)
        yield page
        page.close()


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_events_are_read_however_the_stream_is_cut(
    scripts: Page, stream: bytes, events: list[str]
) -> None:
    places = range(len(stream) + 1)
    cuts = [[], list(places), *([a] for a in places), *([a, b] for a in places for b in places[a:])]
    found = scripts.evaluate(READ, [list(stream), cuts])
    assert [json.loads(one) for one in found] == [events]


def test_an_event_is_told_at_once(scripts: Page) -> None:
    """A line end that is a carriage return does not wait for what may follow it."""
    pushed = """
    async () => {
      const { EventParser } = await import("/page/events.js");
      const parser = new EventParser();
      return ["data: one\\r", "\\n\\r", "\\n", "data: two\\n", "\\n"].map((text) => parser.push(text));
    }
    """
    assert scripts.evaluate(pushed) == [[], ["one"], [], [], ["two"]]


CALLS: list[tuple[str, str, Any, Any]] = [
    ("text", "percent", 1, "100 %"),
    ("text", "percent", 0.4349, "43 %"),
    ("text", "percent", 0.0996, "10 %"),
    ("text", "percent", 0.0994, "9.9 %"),
    ("text", "percent", 0.00994, "0.99 %"),
    ("text", "percent", 0.000001, "< 0.01 %"),
    ("text", "percent", 0, "0.00 %"),
    ("text", "visible", " a\n\t\u202eb\u00a0", "␣a↵⇥\\u202eb\\u00a0"),
    ("text", "duration", 1234, "1.23 s"),
    ("text", "duration", 61234, "61.2 s"),
    (
        "settings",
        "stopTexts",
        "\nEND\n\n\\n\\n\n \na\\\\n\\tb\\x",
        ["END", "\n\n", " ", "a\\n\tb\\x"],
    ),
    ("settings", "stopTexts", "", []),
]


@pytest.mark.parametrize(("module", "function", "argument", "result"), CALLS)
def test_what_a_function_gives(
    scripts: Page, module: str, function: str, argument: Any, result: Any
) -> None:
    call = f"async (value) => (await import('/page/{module}.js')).{function}(value)"
    assert scripts.evaluate(call, argument) == result
