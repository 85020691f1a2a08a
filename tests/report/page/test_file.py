"""The page as a file: one, whole, safe from what is written in a ledger; and its data, without a browser."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.report.page.file import SCRIPTS, as_data, page_text, write_page
from tests.report.page.runs import HOSTILE, account, eventful_run, plain_run

ROOT = Path(__file__).resolve().parents[3]


class Elements(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.texts: dict[str, str] = {}
        self.place = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        self.place = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self.place = ""

    def handle_data(self, data: str) -> None:
        self.texts[self.place] = self.texts.get(self.place, "") + data


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_text([account(eventful_run(tmp_path_factory.mktemp("run") / "opt"))])


def test_the_file_names_nothing_outside_itself(text: str) -> None:
    for tag, attributes in Elements(text).found:
        assert "src" not in attributes, tag
        assert attributes.get("href", "data:,") == "data:,", tag
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
    style = Elements(text).texts["style"]
    assert not re.search(r"url\(|@import", style)


def test_the_policy_knows_style_and_script_by_their_hashes(text: str) -> None:
    page = Elements(text)
    policy = next(a["content"] for tag, a in page.found if a.get("http-equiv") == "Content-Security-Policy")  # fmt: skip
    for kind in ("style", "script"):
        digest = b64encode(sha256(page.texts[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_what_a_ledger_says_does_not_leave_its_element(text: str) -> None:
    page = Elements(text)
    assert [tag for tag, _ in page.found].count("script") == 2
    data = json.loads(page.texts["ledger"])
    assert HOSTILE in dict(data["runs"][0]["what"])["Command"]
    noted = [
        entry for day in data["runs"][0]["chronicle"] for entry in day["entries"] if entry["author"]
    ]
    assert [entry["text"] for entry in noted] == [f"The loss jumped. {HOSTILE}\nWe wait."]


@given(st.text())
def test_data_is_the_same_behind_its_escapes(text: str) -> None:
    written = as_data({"note": text})
    assert json.loads(written) == {"note": text}
    assert not set(written) & set("<>&\u2028\u2029")


def test_placeholders_in_the_data_stay_as_they_are(tmp_path: Path) -> None:
    folder = eventful_run(tmp_path / "{{script}}")
    page = Elements(page_text([account(folder)]))
    assert json.loads(page.texts["ledger"])["runs"][0]["name"] == "{{script}}"


def test_every_script_is_in_the_file(text: str) -> None:
    folder = files("metaseq_plugin.report.page")
    there = {file.name for file in folder.iterdir() if file.name.endswith(".js")}
    assert there == {f"{name}.js" for name in SCRIPTS}
    script = Elements(text).texts["script"]
    for name in there:
        assert folder.joinpath(name).read_text("utf-8") in script


def test_the_wheel_takes_the_files_along() -> None:
    packaged = re.search(r'^"\*" = \[(.+)\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packaged is not None
    for file in (ROOT / "metaseq_plugin/report/page").iterdir():
        assert file.suffix in ("", ".py") or f'"*{file.suffix}"' in packaged[1], file.name


def test_an_older_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "new" / "report.html"
    for name in ("one", "two"):
        write_page([account(plain_run(tmp_path / name))], page)
        assert f"<script type=\"application/json\" id=\"ledger\">{{\"title\":\"{name} " in page.read_text("utf-8")  # fmt: skip
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_a_place_that_takes_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(
        UserError, match=r"`--html` must be a file that can be written, but .* cannot"
    ):
        write_page([account(plain_run(tmp_path / "run"))], tmp_path / "taken" / "report.html")
