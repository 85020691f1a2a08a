"""``metaseq serve``: what it says, what it refuses, and how it stops."""

import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Iterator

import httpx2
import pytest

from metaseq_plugin.cli import main
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve import command as serve_command
from metaseq_plugin.serve.loading import Source, report
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.running import is_exposed, listen, url_of
from tests.serve.live import address, command, status_of, wait_for, write_model
from tests.serve.tiny import greedy

# fmt: off
WRONG: dict[str, tuple[list[Any], str]] = {
    "no path": ([], "`--path` must name the model, but is missing"),
    "port": (["--path", "x", "--port", "70000"], "`--port` must be from 0 to 65535, but is 70000"),
    "host": (["--path", "x", "--host", "203.0.113.7"], "`--host` must be an address of this machine, but is 203.0.113.7"),
    "no host": (["--path", "x", "--host", "lab..org"], "`--host` must be an address of this machine, but is lab..org"),
    "parts": (["--path", "x", "--model-parallel-size", "0"], "`--model-parallel-size` must be at least 1, but is 0"),
    "batch": (["--path", "x", "--max-batch-tokens", "0"], "`--max-batch-tokens` must be at least 1"),
    "waiting": (["--path", "x", "--max-waiting", "0"], "`--max-waiting` must be at least 1"),
    "timeout": (["--path", "x", "--timeout", "nan"], "`--timeout` must be above 0 seconds, but is nan"),
    "drain": (["--path", "x", "--drain-timeout", "-1"], "`--drain-timeout` must be 0 seconds or more"),
    "keys": (["--path", "x", "--api-key-file", "no/such/file"], "`--api-key-file` must be a text file"),
}
# fmt: on


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, sentence = WRONG[name]
    assert main(["serve", *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--path", "x", "--port", str(port)]) == 2
    assert f"`--port` must be free, but {port} is in use. Set another" in capsys.readouterr().err


def test_missing_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve_command, "find_spec", lambda name: None if name == "uvicorn" else 1)
    assert main(["serve", "--path", "x"]) == 2
    error = capsys.readouterr().err
    assert (
        "but uvicorn is not installed. Install them: pip install 'metaseq-plugin[serve]'" in error
    )


@pytest.mark.parametrize(
    ("host", "begin", "exposed"),
    [("127.0.0.1", "http://127.0.0.1:", False), ("localhost", "http://", False),
     ("0.0.0.0", "http://0.0.0.0:", True)],
)  # fmt: skip
def test_where_it_listens(host: str, begin: str, exposed: bool) -> None:
    with listen(host, 0) as listening:
        assert url_of(listening).startswith(begin)
        assert is_exposed(listening) == exposed


def test_a_models_name_is_its_folders(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint_best.pt"
    file.touch()
    assert serve_command.name_of(file) == serve_command.name_of(tmp_path) == tmp_path.name


def test_what_was_loaded_is_told(opt: OPT) -> None:
    source, options = Source(Path("runs/tiny")), Options(name="tiny", max_batch_tokens=4096)
    name, parameters, memory = report(opt, source, options)
    assert name == "model: tiny, from runs/tiny"
    count = sum(parameter.numel() for parameter in opt.model.parameters())
    assert parameters == f"parameters: {count:,}, float32 on cpu"
    # Keys and values of 3 layers, 32 numbers of 4 bytes each: 768 bytes a token.
    assert memory == "keys and values: at most 3 MiB for 4,096 tokens (--max-batch-tokens)"


@pytest.fixture(scope="module")
def model(opt: OPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(opt, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def server(model: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with command("--path", model, "--port", 0, "--drain-timeout", 20) as process:
        url = address(process)
        wait_for(lambda: status_of(url) == 200)
        yield process, url


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.slow
def test_it_loads_answers_and_stops(model: Path, opt: OPT) -> None:
    with command(model, "--port", 0) as process:
        url = address(process)
        assert wait_for(lambda: status_of(url)) == 503
        wait_for(lambda: status_of(url) == 200)
        answer = httpx2.post(
            f"{url}v1/completions", json={"prompt": "the cat", "max_tokens": 6, "temperature": 0}
        )
        assert answer.json()["choices"][0]["text"] == greedy(opt, "the cat", 6).text
        assert answer.json()["model"] == "tiny"
        page = httpx2.get(f"{url}v1/models", headers={"Host": "pages.example"})
        assert page.status_code == 421
        process.send_signal(signal.SIGTERM)
        status, out, err = ended(process)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"model: tiny, from {model}"
    assert lines[1].endswith(", float32 on cpu")
    assert lines[2].startswith("keys and values: at most ")
    assert lines[3] == f"ready: {url}, no key is asked for"
    assert len(lines) == 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_under_way_finish(
    server: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    process, url = server
    fields = {"prompt": ["a"] * 200, "max_tokens": 90, "min_tokens": 90, "seed": 1}
    answers: list[httpx2.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx2.post(f"{url}v1/completions", json=fields, timeout=60))
    )
    asking.start()
    wait_for(lambda: re.search(r"metaseq_batch_rows [1-9]", httpx2.get(f"{url}metrics").text))
    process.send_signal(number)
    wait_for(lambda: status_of(url) == 503)
    assert httpx2.post(f"{url}completions", json={"prompt": "a"}).status_code == 503
    asking.join()
    assert answers[0].status_code == 200
    assert answers[0].json()["usage"]["completion_tokens"] == 200 * 90
    assert ended(process)[0] == 0


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(server: tuple[subprocess.Popen[str], str]) -> None:
    process, url = server
    fields = {"prompt": ["a"] * 256, "max_tokens": 90, "min_tokens": 90, "stream": True}
    with httpx2.stream("POST", f"{url}v1/completions", json=fields, timeout=60) as answer:
        events = answer.iter_lines()
        next(events)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: status_of(url) in (503, None))
        process.send_signal(signal.SIGTERM)
        last = [line for line in events if line][-1]
    assert "it is stopping" in last
    assert ended(process)[0] == 0


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_it(tmp_path: Path, model: Path) -> None:
    with command("--path", tmp_path, "--port", 0) as process:
        status, _, err = ended(process)
    assert status == 2
    assert err.startswith("metaseq serve: error: ")
    assert "Traceback" not in err
    for name in ("vocab.json", "merges.txt", "dict.txt"):
        assert (model / name).is_file()


@pytest.mark.slow
def test_it_warns_when_it_is_exposed_without_keys(tmp_path: Path) -> None:
    with command("--path", tmp_path, "--host", "0.0.0.0", "--port", 0) as process:
        _, _, err = ended(process)
    assert "warning: whoever reaches this machine may use the model: set --api-key-file" in err
