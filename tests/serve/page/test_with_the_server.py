"""The page on the server itself, with a tiny model: the same text and probabilities as the hub gives."""

import math
import re
import time
from typing import Any, Iterator

import pytest
from fastapi import FastAPI

from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.app import build_app
from metaseq_plugin.serve.options import Options
from tests.serve.page.stub import running
from tests.serve.tiny import NAME, greedy

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect

from tests.serve.page.driving import expect_done, generate, text_of


@pytest.fixture(scope="module")
def with_key(opt: OPT, engine: Engine) -> FastAPI:
    return build_app(opt, engine, Options(name=NAME, keys=("s3cret",)))


@pytest.fixture
def origin(app: FastAPI) -> Iterator[str]:
    """The server's in place of the stub's."""
    with running(app) as started:
        yield started


@pytest.fixture
def keyed_origin(with_key: FastAPI) -> Iterator[str]:
    with running(with_key) as started:
        yield started


def test_the_text_and_its_probabilities_are_the_hubs(page: Page, opt: OPT) -> None:
    expected = greedy(opt, "the cat sat", 20)
    page.goto("/#temperature=0&top_p=1&max_tokens=20")
    expect(page.locator("#model")).to_have_text(NAME)
    generate(page, "the cat sat")
    expect_done(page)
    assert text_of(page) == expected.text
    expect(page.locator("#status")).to_contain_text(f"{len(expected.tokens)} tokens")
    ending = {"length": "length", "eos": "stop", "stop": "stop"}[expected.finish_reason]
    expect(page.locator(".ending strong")).to_have_text(ending)
    first = page.locator(".sample .token").nth(0)
    first.focus()
    chosen = page.locator("#alternatives .chosen .chance").first
    assert float((chosen.text_content() or "").split()[0]) == pytest.approx(
        100 * math.exp(expected.scores[0]), rel=0.05
    )
    assert page.locator("#alternatives ol").first.locator("li").count() >= 5
    spans = page.locator(".sample .token").all_text_contents()
    assert len(spans) > 1
    assert "".join(spans) == expected.text


def test_samples_are_those_of_the_seed_and_end_before_a_stop_text(page: Page, opt: OPT) -> None:
    settings: dict[str, Any] = dict(temperature=1.5, top_k=50, seed=3, num_samples=3)
    whole = opt.generate(["the dog"], 30, **settings)[0]
    stop = (whole[0].text or "")[5:8]
    expected = opt.generate(["the dog"], 30, stop=[stop], **settings)[0]
    page.goto("/#temperature=1.5&top_p=1&top_k=50&seed=3&n=3&max_tokens=30")
    page.fill("#stop-texts", stop.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t"))
    generate(page, "the dog")
    expect_done(page)
    assert [text_of(page, number) for number in range(3)] == [one.text for one in expected]
    expect(page.locator(".ending strong").first).to_have_text("stop")


def test_stop_frees_the_row(page: Page, engine: Engine) -> None:
    page.goto("/#max_tokens=90&n=16&temperature=1")
    generate(page, "a")
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text(re.compile("^(Stopped|Done)"))
    deadline = time.monotonic() + 5
    while engine.statistics().running:
        assert time.monotonic() < deadline, "rows still run"
        time.sleep(0.01)


def test_the_servers_rule_is_shown(page: Page) -> None:
    page.goto("/#max_tokens=5000")
    generate(page, "a")
    expect(page.get_by_role("alert")).to_contain_text("`max_tokens` must ")


def test_the_page_needs_no_key_and_what_it_asks_for_does(
    browser: Browser, keyed_origin: str
) -> None:
    page = browser.new_page(base_url=keyed_origin)
    page.goto("/#max_tokens=4")
    expect(page.locator("#key")).to_be_focused()
    page.fill("#key", "s3cret")
    page.press("#key", "Enter")
    expect_done(page)
    expect(page.locator("#model")).to_have_text(NAME)
    page.close()
