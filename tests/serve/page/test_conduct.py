"""A request from the page: what is asked, how its text comes, and what its tokens tell."""

import json
import re
import shlex
import shutil
import subprocess
import threading
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Page, expect

from tests.serve.page.driving import clipboard, expect_done, generate, text_of
from tests.serve.page.stub import (
    MODEL,
    Events,
    Stub,
    choice_event,
    closing,
    plain_answer,
    token_logprobs,
)

TOKENS = ["The", " cat", " sat", "\n", "still"]


def test_text_streams_as_it_comes(page: Page, stub: Stub) -> None:
    stub.answer = plain_answer(["one", " two", " three", " four"])
    stub.steps = threading.Semaphore(0)
    page.goto("/")
    expect(page.locator("#model")).to_have_text(MODEL)
    generate(page, "zero")
    expect(page.locator("#status")).to_have_text("Waiting for the first token…")
    for text in ("one", "one two", "one two three"):
        stub.steps.release()
        expect(page.locator(".sample .text")).to_have_text(text)
        expect(page.locator("#status")).to_have_text("Writing…")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.wait_for_timeout(150)  # in less no speed is told
    stub.steps.release(3)
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
    expect(page.locator(".ending")).to_have_text("stop — the model ended its text")


@pytest.mark.parametrize(
    ("has_logprobs", "ending"),
    [(True, "a stop text came up"), (False, "the model ended its text, or came to a stop text")],
)
def test_an_ending_is_told_as_far_as_it_is_known(
    page: Page, stub: Stub, has_logprobs: bool, ending: str
) -> None:
    stub.answer = plain_answer(TOKENS, finish_reason="stop", has_logprobs=has_logprobs)
    page.goto("/")
    generate(page)
    expect_done(page)
    expect(page.locator(".ending")).to_have_text(f"stop — {ending}")


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
