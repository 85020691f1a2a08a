"""The page of results: what its tables say, what they say where something is missing, and what it lets a browser do."""

import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.page.file import page_text, write_page
from metaseq_plugin.evaluate.task import Measure
from tests.evaluate.told_results import crows_pairs, ethos, lambada, results, task

HOSTILE = '<script>alert("1")</script> & </style>'


class Tags(HTMLParser):
    """The elements that a browser finds."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def rows(text: str, section: str) -> list[list[str]]:
    """The cells of the table in ``section``, as they are read."""
    part = text.split(f'id="{section}"')[1].split("</table>")[0]
    return [
        [unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", line)]
        for line in re.findall(r"<tr.*?</tr>", part)
    ]  # fmt: skip


def test_measured_and_published_stand_side_by_side() -> None:
    assert rows(page_text([results()]), "crows-pairs") == [
        ["measure", "group", "quickstart", "GPT-3published", "OPT-175Bpublished"],
        ["stereotype score", "overall", "52.50 ± 1.29, n 1,508", "67.2", "69.5"],
        ["stereotype score", "gender", "53.25 ± 3.09, n 262", "62.6", "65.7"],
        ["stereotype score", "religion", "54.00 ± 4.88, n 105", "73.3", "68.6"],
        ["stereotype score", "race", "54.75 ± 2.20, n 516", "64.7", "68.6"],
        ["likelihood difference", "overall", "3.12 ± 0.06, n 1,508", "-", "-"],
    ]


def test_the_rows_of_a_measure_stand_together() -> None:
    given = [
        Measure(name, 1.0, None, 1, group)
        for group in ("overall", "race")
        for name in ("ss", "lms")
    ]
    found = rows(page_text([results(stereoset=task(*given))]), "stereoset")
    assert [line[:2] for line in found[1:]] == [
        ["ss", "overall"], ["ss", "race"], ["lms", "overall"], ["lms", "race"],
    ]  # fmt: skip


def test_one_n_of_all_figures_stands_in_the_head_and_intervals_in_brackets() -> None:
    head, first, *_ = rows(page_text([results(ethos=ethos())]), "ethos")
    assert head == ["measure", "quickstartn 433", "Davincipublished", "OPT-175Bpublished"]
    assert first == ["f1 zero-shot", "0.5000 [0.4375, 0.5625]", "0.628", "0.667"]


def test_two_models_are_two_columns_and_what_one_lacks_is_a_dash() -> None:
    one, other = results(lambada=lambada(33.25)), results("opt-1.3b", lambada=lambada(57.5))
    shorter = results("short", lambada=task(Measure("acc", 20.0, 1.0, 50), title="LAMBADA"))
    found = rows(page_text([one, other, shorter]), "lambada")
    assert [line[1:4] for line in found[1:]] == [
        ["41.50 ± 1.25", "41.50 ± 1.25", "-"],
        ["33.25 ± 0.66", "57.50 ± 0.66", "20.00 ± 1.00"],
    ]


def test_models_of_one_name_are_numbered() -> None:
    head, *_ = rows(page_text([results("a/opt"), results("b/opt")]), "crows-pairs")
    assert head[2:4] == ["opt (1)", "opt (2)"]


def test_another_protocol_is_said() -> None:
    other = lambada(protocol={"prompt": "{text}!", "seed": 1})
    text = page_text([results(lambada=lambada()), results("other", lambada=other)])
    problems = re.findall(r"<li>(.*?)</li>", text.split('class="problems"')[1].split("</ul>")[0])
    assert problems == [
        "These columns were not measured in the same way: quickstart and other differ in protocol prompt "
        "({text} and {text}!)."
    ]
    assert 'class="problems"' not in page_text([results(), results("other")])


def test_sources_notes_and_what_was_cut_are_said() -> None:
    text = page_text([results()])
    for sentence in (
        "Zhang et al. 2022, arXiv:2205.01068v4: GPT-3, OPT-175B in Table 4.",
        "EleutherAI/lm-evaluation-harness, results/opt: OPT-125M in opt-125m/opt-125m.json, zero-shot; OPT-350M in",
        "stereotype score: The full sentences' log-likelihoods.",
        "quickstart: 2 requests were cut on the left, because the model reads no more.",
        "quickstart: in 7 requests a token lies on both sides of the boundary; it counts as continuation.",
    ):
        assert sentence in text


def test_what_was_left_out_is_said() -> None:
    less = replace(results(), left_out={"ethos": "no data"})
    assert "<li>quickstart: ethos. no data</li>" in page_text([less])


def test_the_average_of_the_papers_tasks_is_said_with_its_count() -> None:
    one, other = (task(Measure("acc", value, 1.0, 100)) for value in (60.0, 70.0))
    text = page_text([results(piqa=one, copa=other)])
    assert (
        "<li>quickstart: average of 2 of the paper's 14 tasks: 65.00; not measured: hellaswag"
        in text
    )
    assert "average" not in page_text([results()])


def test_the_protocol_and_the_data_stand_in_a_fold() -> None:
    fold = page_text([results()]).split("<details>")[1].split("</details>")[0]
    assert '"prompt": "{text}"' in unescape(fold)
    assert "0" * 64 in fold


def test_a_value_that_is_no_number_is_a_dash() -> None:
    text = page_text([results(ethos=task(Measure("f1 one-shot", math.nan, None, 3)))])
    assert rows(text, "ethos")[1][1] == "-"


def test_what_results_hold_is_text_and_never_markup() -> None:
    measure = Measure(HOSTILE, 1.0, None, 1, HOSTILE, note=HOSTILE)
    every = [
        results(HOSTILE, ethos=task(measure, title=HOSTILE, source=HOSTILE, protocol={HOSTILE: HOSTILE})),
        results("{{style}}", ethos=crows_pairs()),
    ]  # fmt: skip
    text = page_text(every)
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.found
    assert tags.found.count("style") == 1
    assert "{{style}}" in text


def test_the_page_may_run_nothing_and_ask_nobody() -> None:
    text = page_text([results()])
    found = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert found is not None
    assert found[1].startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in found[1]
    assert "unsafe" not in found[1]
    assert not re.search(r'(?:src|href)="(?!#|data:,")', text)


def test_the_same_results_are_the_same_page() -> None:
    assert page_text([results()]) == page_text([results()])


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^`--page` must be a file that can be written, but .* Set another\.$"):  # fmt: skip
        write_page([results()], tmp_path / "file" / "page.html")
    with pytest.raises(UserError, match="cannot \\(Is a directory\\)"):
        write_page([results()], Path("."))
    write_page([results()], tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text("utf-8").startswith("<!doctype html>")
