"""The page of written ledgers in Debian's Chromium, opened as a file, with the network watched."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator

import pytest

from tests.chromium import chromium
from tests.report.page.runs import eventful_run, page_of, plain_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Opened = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an eventful run."""
    return page_of(eventful_run(tmp_path_factory.mktemp("one") / "opt-125m"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three runs, two of which are called the same."""
    folder = tmp_path_factory.mktemp("three")
    plain = [plain_run(folder / place / "opt", seed) for place, seed in (("x", 2), ("y", 3))]
    return page_of(*plain, eventful_run(folder / "eventful"))


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Opened]:
    """Opens a page; whatever it wrote to the console, or asked of anybody but its own file, is a fault."""
    contexts, faults = [], list[str]()

    def open_page(path: Path, **settings: Any) -> "Page":
        context = browser.new_context(**settings)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        address = path.as_uri()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("request", lambda request: faults.append(request.url) if request.url.split("#")[0] != address else None)  # fmt: skip
        page.goto(address)
        page.wait_for_selector("main section")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
