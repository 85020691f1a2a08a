"""The page in real Chromium: what is drawn, what pointer and keys show, looks, and that nothing is asked of a network."""

import re
from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect

from tests.chromium import LOW_CONTRAST
from tests.report.page.conftest import Opened
from tests.report.page.runs import HOSTILE

pytestmark = pytest.mark.slow

PLOTS = [
    "loss", "gnorm", "lr", "loss-scale", "clip", "speed", "utilisation", "power", "norms-activations",
    "norms-gradients",
]  # fmt: skip
WIDTH = "() => document.documentElement.scrollWidth"
# The ends of the first curve of a plot, as values: where the pen stands, read back through the labels of the axis.
ENDS = """
(plot) => {
  const figure = document.getElementById(`plot-${plot}`);
  const labels = [...figure.querySelectorAll(".axes .value")].map((text) => [Number(text.getAttribute("y")), Number(text.textContent)]);
  const [[y0, v0], [y1, v1]] = [labels[0], labels.at(-1)];
  const pens = figure.querySelector(".line .curve").getAttribute("d").slice(1).split("L").map((pen) => Number(pen.split(" ")[1]));
  return [pens[0], pens.at(-1)].map((y) => v0 + ((y - y0) / (y1 - y0)) * (v1 - v0));
}
"""


def stage(page: Page, plot: str) -> str:
    return f"#plot-{plot} .stage"


def test_every_plot_is_drawn(opened: Opened, one: Path) -> None:
    page = opened(one)
    assert page.evaluate(
        "() => [...document.querySelectorAll('figure')].map((each) => each.id)"
    ) == [f"plot-{name}" for name in PLOTS]
    for name in PLOTS:
        assert page.locator(f"#plot-{name} .line .curve").first.get_attribute("d") is not None
        box = page.locator(stage(page, name)).bounding_box()
        assert box is not None
        assert box["width"] > 400
    expect(page.locator("#plot-loss .legend li")).to_have_text(["train", "valid"])


def test_curves_stand_where_their_values_are(opened: Opened, one: Path) -> None:
    page = opened(one)
    first, last = page.evaluate(ENDS, "lr")
    assert first == pytest.approx(6e-4 * 10 / 60 * (1 - 10 / 2000), abs=1e-6)
    assert last == pytest.approx(6e-4 * (1 - 400 / 2000), abs=1e-6)
    assert page.evaluate(ENDS, "speed") == pytest.approx([512, 512], abs=2)


def test_a_kept_curve_goes_on_and_a_lost_one_stands_beside_it(opened: Opened, one: Path) -> None:
    page = opened(one)
    kept = page.locator("#plot-lr .line .curve:not(.lost)")
    expect(kept).to_have_count(1)
    assert (kept.get_attribute("d") or "").count("L") == 39  # a line every 10 of 400 updates
    assert page.locator("#plot-lr .line .curve.lost").count() == 2  # the kill, and the rewind
    page.get_by_label("lost updates").uncheck()
    expect(page.locator("#plot-lr .line .curve.lost")).to_have_count(0)
    page.get_by_label("hours").check()
    assert page.locator("#plot-lr .line .curve:not(.lost)").count() == 3  # a stop is a gap in time


def test_along_tokens_a_curve_goes_on_as_along_updates(opened: Opened, one: Path) -> None:
    page = opened(one)
    page.get_by_label("tokens", exact=True).check()
    expect(page.locator("#plot-lr .line .curve:not(.lost)")).to_have_count(1)
    assert page.locator("#plot-loss .mark.start").count() == 3
    page.locator("#plot-gnorm input").focus()
    page.keyboard.press("Tab")
    slider = page.get_by_role("slider", name="Gradient norm: values along the run")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(r"^[0-9.]+k? tokens, gradient norm 13.88$"))  # fmt: skip
    page.locator("#plot-loss summary").click()
    expect(page.locator("#plot-loss .values th").first).to_have_text("tokens")


def test_marks_stand_at_what_happened_and_can_be_hidden(opened: Opened, one: Path) -> None:
    page = opened(one)
    counts = {kind: page.locator(f"#plot-loss .mark.{kind}").count() for kind in ("start", "stop", "spike", "save", "change", "note")}  # fmt: skip
    assert counts == {"start": 3, "stop": 3, "spike": 2, "save": 1, "change": 1, "note": 1}
    page.get_by_label("saves").uncheck()
    expect(page.locator("#plot-loss .mark.save")).to_have_count(0)
    expect(page.locator("#plot-power .mark.save")).to_have_count(0)


def test_the_pointer_shows_values_and_marks(opened: Opened, one: Path) -> None:
    page = opened(one)
    box = page.locator(stage(page, "loss")).bounding_box()
    assert box is not None
    left, right = box["x"] + 56, box["x"] + box["width"] - 14
    page.mouse.move(left + (right - left) * 160 / 400, box["y"] + 60)
    shown = page.locator("#plot-loss .box")
    expect(shown).to_contain_text("update 160")
    expect(shown).to_contain_text("spike at update 160: loss 8.6, z 31, logged")
    expect(shown).to_contain_text("at 300")  # the validation nearest to it
    expect(page.locator("#plot-power .box")).to_be_hidden()
    assert page.locator("#plot-power .cursor").get_attribute("d")  # the same place in all of them
    page.mouse.move(5, 5)
    expect(shown).to_be_hidden()


def test_keys_walk_along_a_curve(opened: Opened, one: Path) -> None:
    page = opened(one)
    page.locator("#plot-gnorm input").focus()
    page.keyboard.press("Tab")
    slider = page.get_by_role("slider", name="Gradient norm: values along the run")
    expect(slider).to_be_focused()
    expect(slider).to_have_attribute(
        "aria-valuetext", re.compile(r"^update 10, gradient norm 13.88$")
    )
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("^update 20, "))
    page.keyboard.press("PageUp")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("^update 120, .*loss scale at update 120"))  # fmt: skip
    page.keyboard.press("End")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("^update 400, "))
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuenow", "400")
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuenow", "10")
    page.keyboard.press("Escape")
    expect(page.locator("#plot-gnorm .box")).to_be_hidden()


def test_each_plot_has_a_table_of_its_values(opened: Opened, one: Path) -> None:
    page = opened(one)
    for name in PLOTS:
        page.locator(f"#plot-{name} .values summary").click()
        expect(page.locator(f"#plot-{name} .values tbody tr")).to_have_count(40)
    rows = page.locator("#plot-loss-scale .values tbody tr")
    expect(rows.nth(10)).to_have_text("110128")
    expect(rows.nth(11)).to_have_text("12064")
    row = page.locator("#plot-loss .values tbody tr").nth(29)
    expect(row.locator("td").nth(1)).to_have_text("3.9")
    spoken = page.locator("#plot-lr .spoken").text_content()
    assert spoken is not None
    assert spoken.startswith("Learning rate. learning rate: from 9.95e-5 to 4.8e-4, lowest 9.95e-5")


def test_a_part_is_chosen_by_numbers_and_by_dragging(opened: Opened, one: Path) -> None:
    page = opened(one)
    labels = page.locator("#plot-lr .axes .place")
    page.get_by_label("From").fill("200")
    page.get_by_label("From").press("Enter")
    expect(labels.first).to_have_text("200")
    page.get_by_role("button", name="All").click()
    expect(labels.first).to_have_text("0")
    page.locator(stage(page, "lr")).scroll_into_view_if_needed()
    box = page.locator(stage(page, "lr")).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 60)
    page.mouse.up()
    assert 150 < float(page.get_by_label("From").input_value()) < 250
    assert 280 < float(page.get_by_label("To", exact=True).input_value()) < 360


def test_axes_are_logarithmic_where_it_helps(opened: Opened, one: Path) -> None:
    page = opened(one)
    labels = page.locator("#plot-gnorm .axes .value")
    expect(labels).to_have_text(["1", "10"])
    page.locator("#plot-gnorm").get_by_label("log").uncheck()
    expect(labels.last).to_have_text("30")
    expect(page.locator("#plot-loss-scale .axes .value")).to_have_text(["32", "64", "128"])
    expect(page.locator("#plot-loss").get_by_label("log")).not_to_be_checked()
    expect(page.locator("#plot-power").get_by_label("log")).to_have_count(0)


def test_the_bar_of_time_is_whole(opened: Opened, one: Path) -> None:
    page = opened(one)
    pieces = page.evaluate(
        "() => [...document.querySelectorAll('.time .spent')].map((each) => parseFloat(each.style.width))"
    )
    assert sum(pieces) == pytest.approx(100)
    shares = page.locator("#time tbody tr td:last-child").all_text_contents()
    assert shares[-1] == "100.0 %"
    assert sum(float(share.split()[0]) for share in shares[:-1]) == pytest.approx(100)
    assert len(pieces) == len(shares) - 1


def test_whatever_a_note_or_a_command_says_stays_text(opened: Opened, one: Path) -> None:
    page = opened(one)
    assert page.title() == "opt-125m – metaseq report"
    assert page.locator("img").count() == 0
    assert HOSTILE in (page.locator(".command").text_content() or "")
    noted = page.locator("#chronicle .noted p").text_content()
    assert noted == f"ada: The loss jumped. {HOSTILE}\nWe wait."


def test_the_policy_stops_what_is_not_in_the_file(
    browser: Browser, one: Path, tmp_path: Path
) -> None:
    planted = tmp_path / "planted.html"
    script = "<script>document.title = 'taken'</script><img src='https://example.com/x.png'>"
    planted.write_text(one.read_text("utf-8").replace("</main>", f"</main>{script}"), "utf-8")
    page = browser.new_page()
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.goto(planted.as_uri())
    page.wait_for_selector("main section")
    assert page.title() == "opt-125m – metaseq report"
    assert len(told) == 2
    assert all("Content Security Policy" in text for text in told)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(opened: Opened, one: Path, scheme: Literal["light", "dark"]) -> None:
    page = opened(one, color_scheme=scheme)
    paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(251, 250, 247)", "dark": "rgb(23, 22, 20)"}[scheme]
    page.locator(stage(page, "loss")).hover()
    page.locator("#plot-loss .values summary").click()
    count, low = page.evaluate(LOW_CONTRAST)
    assert low == []
    assert count > 300


def test_a_phone_never_scrolls_sideways(opened: Opened, one: Path, three: Path) -> None:
    for path in (one, three):
        page = opened(path, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
        assert page.evaluate(WIDTH) == 360
        page.locator("details").evaluate_all(
            "(all) => all.forEach((each) => { each.open = true; })"
        )
        assert page.evaluate(WIDTH) == 360
        page.locator("#plot-loss .stage").tap()
        expect(page.locator("#plot-loss .box")).to_be_visible()
        assert page.evaluate(WIDTH) == 360
        box = page.locator("#plot-loss .box").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360


def test_everything_that_takes_input_has_a_name_and_shows_its_focus(
    opened: Opened, one: Path
) -> None:
    page = opened(one)
    nameless = """
    () => [...document.querySelectorAll("input, button, select, [role=slider], [role=region]")].filter((element) =>
      !element.labels?.length && !element.ariaLabel && !element.textContent.trim()).map((element) => element.outerHTML)
    """
    assert page.evaluate(nameless) == []
    roles = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        role, outline = page.evaluate(
            "() => [document.activeElement.getAttribute('role') || document.activeElement.tagName,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if role == "BODY":
            break
        roles.add(role)
        assert outline != "none", role
    assert roles == {"A", "INPUT", "SUMMARY", "slider", "region", "SELECT"}


def test_runs_stand_side_by_side(opened: Opened, three: Path) -> None:
    page = opened(three)
    rows = page.locator("#comparison tbody tr th")
    expect(rows).to_have_text(["opt (1)", "opt (2)", "eventful"])
    names = ["opt (1)", "opt (2)", "eventful: train", "eventful: valid"]
    expect(page.locator("#plot-loss .legend li")).to_have_text(names)
    colours = page.locator("#plot-loss .line").evaluate_all("(all) => all.map((each) => getComputedStyle(each.querySelector('.curve')).stroke)")  # fmt: skip
    assert len(set(colours)) == 3  # one for each run
    expect(page.locator("#run-2")).not_to_have_attribute("open", "")
    page.get_by_role("link", name="eventful").click()
    expect(page.locator("#events-2")).to_be_visible()


def test_events_can_be_chosen_by_kind(opened: Opened, one: Path) -> None:
    page = opened(one)
    page.get_by_label("Which events").select_option("valid")
    rows = page.locator("#events tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("valid, loss 3.9, perplexity 14.9, 4 s")


def test_paper_takes_all_of_it(opened: Opened, one: Path) -> None:
    page = opened(one, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("() => getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()") == "#ffffff"  # fmt: skip
    expect(page.locator(".controls")).to_be_hidden()
    expect(page.locator("#plot-loss .stage .curve").first).to_be_visible()
    assert page.locator("#events .frame").evaluate(
        "(frame) => frame.scrollHeight <= frame.clientHeight"
    )
    assert page.pdf(format="A4", print_background=True).startswith(b"%PDF-")
