"""The program of docs/scorers.md, as it stands there, against a service that has limits."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from json import dumps, loads
from pathlib import Path
from typing import Iterator

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.toxicity.scorers.reading import read_scorer
from tests.documented import read_page

Answers = list[tuple[int, float]]  # status, and the value or the seconds to wait


class Service(HTTPServer):
    """Answers requests in turn; keeps their bodies."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked = answers, list[dict[str, object]]()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        assert self.path.endswith("?key=secret")
        self.server.asked.append(loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, value = self.server.answers.pop(0)
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", str(value))
        self.end_headers()
        found = {"attributeScores": {"TOXICITY": {"summaryScore": {"value": value}}}}
        self.wfile.write(dumps(found).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def answers() -> Answers:
    return []


@pytest.fixture
def service(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with Service(answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PERSPECTIVE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("PERSPECTIVE_KEY", "secret")
        yield server
        server.shutdown()


def program(folder: Path) -> str:
    (step,) = (step for step in read_page("docs/scorers.md") if step.kind == "file")
    (folder / "perspective.py").write_text(step.text)
    return f"command:{sys.executable} {folder / 'perspective.py'}"


def test_it_waits_as_the_service_says(tmp_path: Path, service: Service, answers: Answers) -> None:
    answers += [(200, 0.25), (429, 0.01), (200, 0.75)]
    assert read_scorer(program(tmp_path)).score(["kind", "foul"]) == [0.25, 0.75]
    assert [asked["comment"] for asked in service.asked] == [{"text": "kind"}, *2 * [{"text": "foul"}]]  # fmt: skip


def test_a_quota_that_is_used_up_is_told(
    tmp_path: Path, service: Service, answers: Answers
) -> None:
    answers += [(429, 0.01)] * 3
    with pytest.raises(UserError, match=r"perspective\.py says: the quota is used up"):
        read_scorer(program(tmp_path)).score(["kind"])


def test_a_refused_key_is_told(tmp_path: Path, service: Service, answers: Answers) -> None:
    answers += [(403, 0.0)]
    with pytest.raises(UserError, match=r"perspective\.py says: HTTP Error 403"):
        read_scorer(program(tmp_path)).score(["kind"])
