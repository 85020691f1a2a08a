"""The page in Debian's Chromium, against a server whose answers the test writes.

Skipped with the reason where Playwright or Chromium is absent. Each test gets a fresh page; what it
wrote to the browser's console, and where it sent requests, is checked when the test is over.
"""

import json
import re
import shlex
import shutil
import subprocess
from typing import Any, Iterator

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, BrowserContext, Page, expect  # noqa: E402

from tests.serve.page_stub import (  # noqa: E402
    MODEL,
    Events,
    Refusal,
    Stub,
    choice_event,
    closing,
    event,
    plain_answer,
    running,
    token_logprobs,
)

CHROMIUM = "/usr/bin/chromium"
# What Chromium itself writes of an answer with an error status.
STATUS = re.compile(r"Failed to load resource: .*(status of \d+|net::ERR_)")
TOKENS = ["The", " cat", " sat", "\n", "still"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not shutil.which(CHROMIUM):
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def origin(stub: Stub) -> Iterator[str]:
    with running(stub.app()) as started:
        yield started


@pytest.fixture
def context(browser: Browser, origin: str) -> Iterator[BrowserContext]:
    made = browser.new_context(base_url=origin)
    made.set_default_timeout(10_000)
    made.grant_permissions(["clipboard-read", "clipboard-write"])
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, origin: str) -> Iterator[Page]:
    made = context.new_page()
    faults: list[str] = []
    requests: list[str] = []
    made.on("console", lambda message: faults.append(message.text))
    made.on("pageerror", lambda error: faults.append(str(error)))
    made.on("dialog", lambda dialog: faults.append(dialog.message))
    made.on("request", lambda request: requests.append(request.url))
    yield made
    assert [fault for fault in faults if not STATUS.match(fault)] == []
    assert requests
    assert all(url.startswith(f"{origin}/") for url in requests), requests


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


def test_text_streams_as_it_comes(page: Page, stub: Stub) -> None:
    stub.answer = plain_answer(["one", " two", " three", " four"], pause=0.3)
    page.goto("/")
    expect(page.locator("#model")).to_have_text(MODEL)
    generate(page, "zero")
    text = page.locator(".sample .text")
    expect(text).to_have_text("one")
    expect(page.locator("#status")).to_have_text("Writing…")
    expect(text).to_have_text("one two")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect_done(page)
    assert text_of(page) == "one two three four"
    expect(page.locator("#status")).to_contain_text("4 tokens · ")
    expect(page.locator("#status")).to_contain_text(" tokens/s · first after ")
    expect(page.locator(".ending")).to_have_text("length — as many new tokens as were asked for")
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    assert stub.bodies == [
        {
            "model": MODEL, "prompt": "zero", "max_tokens": 128, "temperature": 0.7, "top_p": 0.9,
            "logprobs": 5, "stream": True, "stream_options": {"include_usage": True},
        }
    ]  # fmt: skip


def test_settings_reach_the_request_and_the_address(page: Page, stub: Stub) -> None:
    page.goto("/#top_p=0.5&presence_penalty=1.5")
    page.fill("#top_k", "40")  # the settings that the address sets are unfolded
    page.fill("#frequency_penalty", "0.25")
    page.fill("#seed", "7")
    page.fill("#n", "2")
    page.fill("#stop-texts", "END\n\\n\\n\n")
    page.fill("#max_tokens", "3")
    page.get_by_label("Temperature, slider").fill("0")
    page.uncheck("#logprobs")
    stub.answer = plain_answer(TOKENS, samples=2, has_logprobs=False)
    generate(page, "secret")
    expect_done(page)
    assert stub.bodies[-1] == {
        "model": MODEL, "prompt": "secret", "max_tokens": 3, "temperature": 0, "top_p": 0.5, "n": 2,
        "top_k": 40, "presence_penalty": 1.5, "frequency_penalty": 0.25, "seed": 7,
        "stop": ["END", "\n\n"], "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert [text_of(page, 0), text_of(page, 1)] == ["The cat sat\nstill"] * 2
    expect(page.locator(".sample .token")).to_have_count(0)
    assert "secret" not in page.url
    asked = stub.bodies[-1]
    page.goto("about:blank#")
    page.go_back()
    page.reload()
    generate(page, "secret")
    expect_done(page)
    assert stub.bodies[-1] == asked


def test_a_setting_out_of_range_is_not_sent(page: Page, stub: Stub) -> None:
    page.goto("/")
    page.fill("#temperature", "3")
    generate(page)
    expect(page.locator("#temperature")).to_be_focused()
    assert stub.bodies == []


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_ends_the_request_and_keeps_the_text(page: Page, stub: Stub, way: str) -> None:
    stub.answer = plain_answer(["word "] * 1000, pause=0.1)
    page.goto("/")
    generate(page)
    expect(page.locator(".sample .text")).to_contain_text("word word ")
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text(re.compile("^Stopped after "))
    expect(page.locator(".ending")).to_have_text("stopped")
    expect(page.locator("#error")).to_be_hidden()
    assert text_of(page).startswith("word word ")
    assert stub.aborted.wait(5), "the server was not told"
    stub.answer = plain_answer(["again"])
    generate(page)
    expect_done(page)
    assert text_of(page) == "again"


def test_tokens_tell_their_probability_and_alternatives_by_keyboard(page: Page, stub: Stub) -> None:
    stub.answer = plain_answer(TOKENS)
    page.goto("/")
    generate(page)
    expect_done(page)
    tokens = page.locator(".sample .token")
    steps = tokens.evaluate_all("all => all.map((token) => token.dataset.step)")
    assert steps == ["0", "1", "2", "3", "4"]
    shown = tokens.evaluate_all("all => all.map((token) => token.dataset.percent)")
    assert shown == ["90 %", "30 %", "10 %", "3.0 %", "0.40 %"]
    colours = tokens.evaluate_all(
        "all => all.map((token) => getComputedStyle(token).backgroundColor)"
    )
    assert len(set(colours)) == 5
    tip = page.get_by_role("tooltip")
    expect(tip).to_be_hidden()
    page.focus("#copy-python")
    for _ in range(40):  # Tab passes the settings
        if page.evaluate("() => document.activeElement.matches('.token')"):
            break
        page.keyboard.press("Tab")
    expect(tokens.nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(2)).to_be_focused()
    assert tokens.nth(2).get_attribute("aria-describedby") == "alternatives"
    rows = tip.locator("li")
    expect(rows.nth(0)).to_have_text("␣the45 %")
    expect(rows.nth(1)).to_have_text("123 %")
    expect(rows.nth(2)).to_have_text("↵11 %")
    expect(rows.nth(3)).to_have_text("␣sat10 %")
    expect(rows.nth(3)).to_have_class("chosen")
    for key, number in (
        ("ArrowDown", 4),
        ("ArrowUp", 0),
        ("End", 4),
        ("ArrowLeft", 3),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        expect(tokens.nth(number)).to_be_focused()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Copy text")).to_be_focused()


def test_tokens_tell_them_to_the_pointer_and_as_numbers(page: Page, stub: Stub) -> None:
    stub.answer = plain_answer(TOKENS)
    page.goto("/")
    generate(page)
    expect_done(page)
    page.locator(".sample .token").nth(4).hover()
    expect(page.get_by_role("tooltip").locator(".chosen")).to_contain_text("still")
    page.hover("h1")
    expect(page.get_by_role("tooltip")).to_be_hidden()
    number = "token => getComputedStyle(token, '::after').content"
    assert page.locator(".sample .token").nth(1).evaluate(number) == "none"
    page.check("#numbers")
    assert page.locator(".sample .token").nth(1).evaluate(number) == '"30 %"'
    assert text_of(page) == "The cat sat\nstill"


def test_a_character_of_several_tokens_is_one_group(page: Page, stub: Stub) -> None:
    pieces = []
    for token, text, offset, chance in (
        ("😀", "😀", 0, 0.9),
        ("bytes:\\xf0\\x9f", "", 1, 0.5),
        ("bytes:\\x98\\x81", "😁", 1, 0.8),
        (" end", " end", 2, 0.9),
        ("</s>", "", 6, 0.6),
    ):
        reason = "stop" if token == "</s>" else None
        pieces.append(choice_event(0, text, token_logprobs(token, offset, chance), reason))
    stub.answer = Events([*pieces, *closing(5)])
    page.goto("/")
    generate(page)
    expect_done(page)
    shown = page.locator(".sample .token").evaluate_all(
        "all => all.map((token) => [token.textContent, token.dataset.percent, token.className])"
    )
    assert shown == [
        ["😀", "90 %", "token"],
        ["😁", "40 %", "token"],
        [" end", "90 %", "token"],
        ["", "60 %", "token end"],
    ]
    page.locator(".sample .token").nth(1).hover()
    expect(page.get_by_role("tooltip").locator("ol")).to_have_count(2)


@pytest.mark.parametrize(
    "prompt", ["Once", 'It\'s "a" $HOME `id` \\n \\\n!! é 😀 \u202eevil\u200b', "@file", ""]
)
def test_copies_send_the_same_request(page: Page, stub: Stub, origin: str, prompt: str) -> None:
    page.goto("/#top_k=5&seed=3&stop=it's%0A\\n")
    generate(page, prompt)
    expect_done(page)
    asked = stub.bodies[-1]
    assert asked["prompt"] == prompt
    page.click("#copy-curl")
    expect(page.locator("#status")).to_have_text("The curl command is copied.")
    command = clipboard(page)
    words = shlex.split(command)
    assert words[:3] == ["curl", "--no-buffer", f"{origin}/v1/completions"]
    assert json.loads(words[words.index("-d") + 1]) == asked
    if shutil.which("curl"):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30)
        assert done.stdout.endswith("data: [DONE]\n\n")
        assert stub.bodies[-1] == asked
        assert len(stub.bodies) == 2
    page.click("#copy-python")
    expect(page.locator("#status")).to_have_text("The Python program is copied.")
    program = compile(clipboard(page), "copied", "exec")
    assert not re.search("[\u202e\u200b]", command + clipboard(page))
    pytest.importorskip("openai", reason="openai is not installed: the program only compiled")
    run_apart(program)
    assert stub.bodies[-1] == asked


def run_apart(program: Any) -> None:
    """Runs the program as its own module; what it prints is what the stub wrote."""
    printed: list[str] = []
    exec(program, {"__name__": "copied", "print": printed.append})
    assert printed == ["Hello world"]


def test_the_text_is_copied_and_gone_on_from(page: Page, stub: Stub) -> None:
    stub.answer = plain_answer(TOKENS)
    page.goto("/")
    generate(page, "Once")
    expect_done(page)
    page.get_by_role("button", name="Copy text").click()
    expect(page.locator("#status")).to_have_text("The text is copied.")
    assert clipboard(page) == "The cat sat\nstill"
    page.get_by_role("button", name="Go on from here").click()
    expect(page.locator("#prompt")).to_have_value("OnceThe cat sat\nstill")
    expect(page.locator("#prompt")).to_be_focused()


def test_without_a_clipboard_the_text_is_shown_and_selected(page: Page, origin: str) -> None:
    page.add_init_script("delete Navigator.prototype.clipboard")  # as on http, another machine's
    page.goto("/")
    page.click("#copy-curl")
    expect(page.get_by_role("dialog")).to_be_visible()
    selected = str(page.evaluate("() => getSelection().toString()"))
    assert f"{origin}/v1/completions" in selected
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


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
    page.fill("#key", "s3cret")
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
