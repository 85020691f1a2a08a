"""Debian's Chromium on the page, against a server whose answers the test writes.

Skipped with the reason where Playwright or Chromium is absent. Each test gets a fresh page; what it
wrote to the browser's console, and where it sent requests, is checked when the test is over.
"""

import re
from typing import TYPE_CHECKING, Iterator

import pytest

from tests.chromium import chromium
from tests.serve.page.stub import Stub, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

# What Chromium itself writes of an answer with an error status.
STATUS = re.compile(r"Failed to load resource: .*(status of \d+|net::ERR_)")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def origin(stub: Stub) -> Iterator[str]:
    with running(stub.app()) as started:
        yield started


@pytest.fixture
def context(browser: "Browser", origin: str) -> Iterator["BrowserContext"]:
    made = browser.new_context(base_url=origin)
    made.set_default_timeout(10_000)
    made.grant_permissions(["clipboard-read", "clipboard-write"])
    yield made
    made.close()


@pytest.fixture
def page(context: "BrowserContext", origin: str) -> Iterator["Page"]:
    made = context.new_page()
    faults: list[str] = []
    requests: list[str] = []
    made.on("console", lambda message: faults.append(message.text))
    made.on("pageerror", lambda error: faults.append(str(error)))
    made.on("dialog", lambda dialog: faults.append(dialog.message))
    made.on("request", lambda request: requests.append(request.url))
    yield made
    assert [fault for fault in faults if not STATUS.match(fault)] == []
    assert all(url.startswith(f"{origin}/") for url in requests), requests
