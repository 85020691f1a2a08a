"""Who may ask the server: those with a key, and no web page through the browser of its machine."""

from pathlib import Path
from typing import Any, Iterator

import pytest
from starlette.testclient import TestClient

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.app import build, build_app
from metaseq_plugin.serve.keys import Keys, read_keys
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.service import Service
from tests.serve.tiny import NAME, refused


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:6010", 200), ("lab.localhost.", 200), ("127.0.0.1:6010", 200),
     ("[::1]:6010", 200), ("lab-7:6010", 200), ("pages.example", 421), ("127.0.0.1.pages.example:6010", 421),
     ("localhost.pages.example", 421), ("lab-7.pages.example", 421), ("[::1", 421), ("a b", 421)],
)  # fmt: skip
def test_a_server_for_this_machine_is_not_for_web_pages(
    opt: OPT, engine: Engine, host: str, status: int
) -> None:
    service = Service(Options(name=NAME))
    service.open(opt, engine)
    with TestClient(build(service, only_at="Lab-7")) as client:
        for path in ("/health", "/", "/v1/models"):
            answer = client.get(path, headers={"Host": host})
            assert answer.status_code == status
            if status == 421:
                error = refused(answer, 421)
                assert error["code"] == "wrong_host"
                assert f"but is {host}." in error["message"]


@pytest.fixture
def guarded(opt: OPT, engine: Engine) -> Iterator[TestClient]:
    app = build_app(opt, engine, Options(name=NAME, keys=("first", "second")))
    with TestClient(app) as client:
        yield client


def test_keys(guarded: TestClient) -> None:
    for header in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Bearer"},
                   {"Authorization": "Basic first"}):  # fmt: skip
        for path in ("/v1/completions", "/completions", "/no/such/path"):
            error = refused(guarded.post(path, content=b"{", headers=header), 401)
            assert error["code"] == "invalid_api_key"
        refused(guarded.get("/metrics", headers=header), 401)
    for value in ("Bearer second", "bearer first", "second"):
        assert guarded.get("/v1/models", headers={"Authorization": value}).status_code == 200
    for path in ("/health", "/"):
        assert guarded.get(path).status_code == 200


def test_who_a_request_is_from(
    guarded: TestClient, client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = engine.submit
    clients: list[str] = []

    def noted(request: Any, listener: Any, client: str, deadline: float) -> Any:
        clients.append(client)
        return submit(request, listener, client, deadline)

    monkeypatch.setattr(engine, "submit", noted)
    headers = {"Authorization": "Bearer second"}
    guarded.post("/v1/completions", json={"prompt": "a", "user": "ann"}, headers=headers)
    guarded.post("/completions", json={"prompt": "a"}, headers=headers)
    client.post("/v1/completions", json={"prompt": "a", "user": "ann"})
    assert clients == ["1:ann", "1:", "testclient:ann"]


def test_a_file_of_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst\n\n  second \n")
    path.chmod(0o600)
    assert read_keys(path) == ["first", "second"]
    assert not caplog.records
    path.chmod(0o644)
    read_keys(path)
    assert "others may read the keys" in caplog.text
    path.write_text("\ufeff first\n  # indented\n")
    assert read_keys(path) == ["first"]
    for key in ("two words", "clé", "tab\tin"):
        path.write_text(f"first\n{key}\n")
        with pytest.raises(UserError, match=r"without spaces.*but line 2 of") as refusal:
            read_keys(path)
        assert key not in str(refusal.value)
    path.write_text("# none\n")
    with pytest.raises(UserError, match="`--api-key-file` must hold a key"):
        read_keys(path)
    with pytest.raises(UserError, match="`--api-key-file` must be a text file"):
        read_keys(tmp_path)


def test_no_keys_let_everybody_in() -> None:
    assert Keys(()).hashes == []
    assert Keys(["a", "b"]).find("Bearer b") == 1
    assert Keys(["a"]).find("Bearer \ud800") is None
