"""What the tests of the page do to it, and read of it."""

import re

from playwright.sync_api import Page, expect


def generate(page: Page, prompt: str = "Once") -> None:
    page.fill("#prompt", prompt)
    page.press("#prompt", "Control+Enter")


def expect_done(page: Page) -> None:
    expect(page.locator("#status")).to_have_text(re.compile("^Done in "))


def text_of(page: Page, number: int = 0) -> str:
    text = page.locator(".sample .text").nth(number).text_content()
    assert text is not None
    return text


def clipboard(page: Page) -> str:
    return str(page.evaluate("() => navigator.clipboard.readText()"))
