"""The routes of the page: every file it needs, with the headers that keep it to its own server."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from metaseq_plugin.serve.page_files import CONTENT_TYPES, page_routes

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(Starlette(routes=list(page_routes())))


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/base.css", "text/css; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
    ],
)
def test_a_file_is_served_with_its_type_and_policy(
    client: TestClient, path: str, content_type: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert client.head(path).headers["Content-Length"] == answer.headers["Content-Length"]


def test_a_file_that_is_known_is_not_sent_again(client: TestClient) -> None:
    tag = client.get("/page/app.js").headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        answer = client.get("/page/app.js", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == tag
    assert client.get("/page/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/__init__.py", "/page/no.js", "/page/../page_files.py", "/page/%2e%2e/app.py"],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_there_is_no_icon_and_no_error_about_it(client: TestClient) -> None:
    assert client.get("/favicon.ico").status_code == 204


def test_every_file_that_the_page_names_is_served(client: TestClient) -> None:
    named = re.findall(r'(?:href|src)="([^"]+)"', client.get("/").text)
    scripts = [
        file for file in files("metaseq_plugin.serve.page").iterdir() if file.name[-3:] == ".js"
    ]
    for script in scripts:
        named += [f"page/{name}" for name in re.findall(r'from "\./(\w+\.js)"', script.read_text())]
    assert "page/style.css" in named
    assert {f"page/{script.name}" for script in scripts} == {n for n in named if n.endswith(".js")}
    for path in set(named):
        assert client.get(f"/{path}").status_code == 200, path


def test_the_wheel_takes_the_files_along() -> None:
    folder = ROOT / "metaseq_plugin/serve/page"
    packaged = re.search(r'^"\*" = \[(.+)\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packaged is not None
    assert (folder / "__init__.py").is_file(), "setuptools takes the data of packages only"
    for file in folder.iterdir():
        assert file.suffix in (".py", *CONTENT_TYPES) or file.is_dir(), file.name
    assert all(f'"*{suffix}"' in packaged[1] for suffix in CONTENT_TYPES)


def test_the_page_has_no_code_in_its_html(client: TestClient) -> None:
    page = client.get("/").text
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>|javascript:", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
