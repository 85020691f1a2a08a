"""What the page shows where the server refuses, breaks off, is not there yet, or wants a key."""

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Page, expect

from tests.serve.page.driving import clipboard, expect_done, generate, text_of
from tests.serve.page.stub import (
    MODEL,
    Events,
    Refusal,
    Stub,
    choice_event,
    event,
    plain_answer,
    token_logprobs,
)


@pytest.mark.parametrize("status", [400, 429, 503, 500])
def test_a_refusal_is_shown_as_the_servers_sentence(page: Page, stub: Stub, status: int) -> None:
    sentence = "`max_tokens` must be at most 16, but is <b>128</b>. Set less."
    stub.answer = Refusal(status, sentence, {"Retry-After": "3"})
    page.goto("/")
    generate(page)
    expect(page.get_by_role("alert")).to_have_text(sentence)
    expect(page.locator("#results")).to_be_hidden()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    stub.answer = plain_answer(["fine"])
    generate(page)
    expect_done(page)
    expect(page.locator("#error")).to_be_hidden()


def test_what_came_before_the_connection_broke_is_kept(page: Page, stub: Stub) -> None:
    begun = choice_event(0, "begun", token_logprobs("begun", 0, 0.5))
    for answer, sentence in (
        (Events([begun], 0.2, is_cut=True), "The connection ended before the text did. "),
        (Events([begun], 0.2), "The connection ended before the text did. "),
        (Events([begun, event({"error": {"message": "A rank died."}})]), "A rank died."),
    ):
        stub.answer = answer
        page.goto("/")
        generate(page)
        expect(page.get_by_role("alert")).to_contain_text(sentence)
        assert text_of(page) == "begun"
        expect(page.locator(".ending")).to_have_text("cut short")


def test_a_server_that_went_away_is_told(page: Page) -> None:
    page.goto("/")
    expect(page.locator("#model")).to_have_text(MODEL)
    page.context.set_offline(True)
    generate(page)
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")


def test_a_server_that_still_loads_is_asked_again(page: Page, stub: Stub) -> None:
    stub.loading = 2
    page.goto("/")
    expect(page.locator("#model")).to_have_text(MODEL)
    assert stub.loading == 0


def test_a_key_is_asked_for_and_kept_for_the_tab_only(page: Page, stub: Stub) -> None:
    page.goto("/")
    expect(page.locator("#key")).to_be_hidden()
    stub.key = "s3cret"
    page.reload()
    expect(page.locator("#key")).to_be_focused()
    page.fill("#prompt", "Once")
    page.fill("#key", "wrong")
    page.press("#key", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("The API key must be one of the server's")
    page.fill("#key", "ключ")
    page.press("#key", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("The API key must be letters")
    page.fill("#key", " s3cret ")
    page.press("#key", "Enter")
    expect_done(page)
    expect(page.locator("#model")).to_have_text(MODEL)
    assert text_of(page) == "Hello world"
    for button in ("#copy-curl", "#copy-python"):
        page.click(button)
        expect(page.locator("#status")).to_contain_text("is copied")
        assert "s3cret" not in clipboard(page)
    assert page.evaluate("() => [localStorage.length, document.cookie, location.hash]") == [
        0,
        "",
        "",
    ]
    page.reload()
    generate(page)
    expect_done(page)
