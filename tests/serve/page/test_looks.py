"""How the page looks and sounds: contrast in light and dark, a phone's width, names, hostile texts."""

from typing import Iterator, Literal

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect

from tests.chromium import LOW_CONTRAST
from tests.serve.page.driving import expect_done, generate, text_of
from tests.serve.page.stub import Refusal, Stub, plain_answer, running

WORDS = ["The", " lighthouse", " keeper", "\n", " counted", " ships"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(page: Page, stub: Stub, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto("/#top_k=3")
    paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(251, 250, 247)", "dark": "rgb(23, 22, 20)"}[scheme]
    stub.answer = Refusal(400, "It is wrong.")
    generate(page)
    expect(page.get_by_role("alert")).to_be_visible()
    assert page.evaluate(LOW_CONTRAST)[1] == []
    stub.answer = plain_answer(WORDS)
    generate(page)
    expect_done(page)
    page.locator(".sample .token").nth(2).hover()
    expect(page.get_by_role("tooltip")).to_be_visible()
    count, low = page.evaluate(LOW_CONTRAST)
    assert low == []
    assert count > 50


@pytest.fixture
def phone(browser: Browser, origin: str) -> Iterator[Page]:
    made = browser.new_context(
        base_url=origin, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True
    )
    yield made.new_page()
    made.close()


def test_a_phone_never_scrolls_sideways(phone: Page, stub: Stub) -> None:
    width = "() => document.documentElement.scrollWidth"
    stub.answer = plain_answer(["word", "x" * 300, " the" * 50, "\u202e" + "y" * 100], samples=3)
    phone.goto("/")
    assert phone.evaluate(width) == 360
    expect(phone.locator("#temperature")).to_be_hidden()
    phone.get_by_text("Settings", exact=True).tap()
    phone.get_by_text("More settings").tap()
    phone.fill("#n", "3")
    assert phone.evaluate(width) == 360
    phone.get_by_role("button", name="Generate").tap()
    expect_done(phone)
    phone.locator(".sample .token").nth(1).tap()
    tip = phone.get_by_role("tooltip")
    expect(tip).to_be_visible()
    box = tip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    phone.check("#numbers")
    assert phone.evaluate(width) == 360
    stub.answer = Refusal(400, "x" * 500)
    phone.get_by_role("button", name="Generate").tap()
    expect(phone.get_by_role("alert")).to_be_visible()
    assert phone.evaluate(width) == 360


def test_samples_stand_side_by_side(page: Page, stub: Stub) -> None:
    stub.answer = plain_answer(WORDS, samples=3)
    page.goto("/")
    page.fill("#n", "3")
    generate(page)
    expect_done(page)
    expect(page.get_by_role("heading", name="Sample 3")).to_be_visible()
    first, second = (page.locator(".sample").nth(number).bounding_box() for number in (0, 1))
    assert first is not None
    assert second is not None
    assert first["y"] == second["y"]
    assert first["x"] + first["width"] <= second["x"]


def test_everything_that_takes_input_has_a_name_and_shows_its_focus(page: Page) -> None:
    page.goto("/#top_k=3")
    nameless = """
    () => [...document.querySelectorAll("input, textarea, button")].filter((element) =>
      !element.labels?.length && !element.ariaLabel && !element.getAttribute("aria-labelledby")
      && !element.textContent.trim()).map((element) => element.outerHTML)
    """
    assert page.evaluate(nameless) == []
    seen = set()
    page.keyboard.press("Tab")
    for _ in range(40):
        name, outline = page.evaluate(
            "() => [document.activeElement.id || document.activeElement.tagName,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if name == "BODY":
            break
        seen.add(name)
        assert outline == "solid", name
        page.keyboard.press("Tab")
    assert {"generate", "copy-curl", "temperature", "logprobs", "seed", "SUMMARY"} <= seen
    expect(page.get_by_role("status")).to_have_count(1)


@pytest.mark.parametrize(
    "tokens",
    [
        ["<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "</div></body>", "&lt;"],
        ["right \u202eto left", "\u202b\u2066", "\u0645\u0631\u062d\u0628\u0627", "\u0000\u0007\r\n", "\ufeff"],
        ["__proto__", "constructor", "{{x}}", "${alert(3)}", "]]>", "😀"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("has_logprobs", [True, False])
def test_whatever_a_model_writes_stays_text(
    page: Page, stub: Stub, tokens: list[str], has_logprobs: bool
) -> None:
    stub.answer = plain_answer(tokens, has_logprobs=has_logprobs)
    page.goto("/")
    page.set_checked("#logprobs", has_logprobs)
    generate(page, "".join(tokens))
    expect_done(page)
    assert text_of(page) == "".join(tokens)
    for token in page.locator(".sample .token").all():
        token.focus()
        expect(page.locator("#alternatives .chosen")).to_have_count(1)
    assert page.locator("img, body script").count() == 0
    bdi = page.locator("#alternatives bdi").all_text_contents()
    assert not [text for text in bdi if "\u202e" in text]
    # What turns its own text around leaves the page's own words as they are.
    assert page.locator(".ending").evaluate("p => getComputedStyle(p).direction") == "ltr"


@pytest.mark.slow
def test_ten_thousand_tokens_are_shown(page: Page, stub: Stub) -> None:
    tokens = [f" word{number}" for number in range(10_000)]
    stub.answer = plain_answer(tokens)
    page.goto("/")
    generate(page)
    expect(page.locator("#status")).to_contain_text("10000 tokens", timeout=60_000)
    assert text_of(page) == "".join(tokens)
    assert page.locator(".sample .token").count() == 10_000
    assert page.locator(".sample .token[tabindex='0']").count() == 1
    page.locator(".sample .token").nth(0).focus()
    page.keyboard.press("End")
    expect(page.locator(".sample .token").nth(9_999)).to_be_focused()
    expect(page.get_by_role("tooltip")).to_be_in_viewport()


def test_the_page_works_below_a_folder_of_a_proxy(browser: Browser) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    inner = Stub()
    with running(Starlette(routes=[Mount("/lab/opt", inner.app())])) as origin:
        page = browser.new_page()
        page.goto(f"{origin}/lab/opt/")
        generate(page)
        expect_done(page)
        page.close()
    assert len(inner.bodies) == 1
