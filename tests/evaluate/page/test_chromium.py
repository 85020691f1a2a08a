"""The page of results in real Chromium: looks by day and night, on a phone and by keys, and that nothing is asked of a network."""

from pathlib import Path
from typing import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page

from metaseq_plugin.evaluate.page.file import write_page
from tests.chromium import LOW_CONTRAST, chromium
from tests.evaluate.told_results import crows_pairs, results

pytestmark = pytest.mark.slow

WIDTH = "() => document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "results.html"
    other = crows_pairs(61.25, protocol={"prompt": "{text}", "seed": 2})
    write_page([results(), results("runs/" + "long" * 30, crows_pairs=other)], path)
    return path


def opened(browser: Browser, file: Path, scheme: str = "light", width: int = 1100) -> Page:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.goto(file.as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(browser: Browser, file: Path, scheme: str) -> None:
    count, low = opened(browser, file, scheme).evaluate(LOW_CONTRAST)
    assert count > 60
    assert low == []


def test_it_follows_the_colours_of_the_system(browser: Browser, file: Path) -> None:
    colour = "() => getComputedStyle(document.body).backgroundColor"
    papers = [opened(browser, file, scheme).evaluate(colour) for scheme in ("light", "dark")]
    assert papers == ["rgb(251, 250, 247)", "rgb(23, 22, 20)"]


@pytest.mark.parametrize("width", [360, 1100])
def test_the_page_is_never_wider_than_the_screen(browser: Browser, file: Path, width: int) -> None:
    assert opened(browser, file, width=width).evaluate(WIDTH) <= width


def test_a_table_that_is_wider_can_be_scrolled_by_keys(browser: Browser, file: Path) -> None:
    page = opened(browser, file, width=360)
    frame = page.get_by_role("region", name="LAMBADA, measured and published")
    frame.focus()
    assert frame.evaluate("(frame) => frame === document.activeElement")
    assert frame.evaluate("(frame) => frame.scrollWidth > frame.clientWidth")


def test_who_listens_hears_what_a_cell_is_of(browser: Browser, file: Path) -> None:
    page = opened(browser, file)
    table = page.get_by_role("table", name="CrowS-Pairs, measured and published")
    assert table.get_by_role("columnheader").all_inner_texts()[2].startswith("quickstart")
    assert table.get_by_role("rowheader").all_inner_texts()[:2] == ["stereotype score", "overall"]


def test_it_asks_no_network_and_says_no_error(browser: Browser, file: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(file.as_uri())
    page.get_by_text("Protocol and data").first.click()
    assert page.locator("details pre").first.is_visible()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []
