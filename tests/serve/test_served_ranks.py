"""``metaseq serve --model-parallel-size 2``: the same tokens, and what becomes of it when a rank dies or it is stopped."""

import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import httpx2
import pytest

from metaseq_plugin.hub import OPT
from tests.serve.live import SECONDS, address, command, status_of, wait_for, write_model
from tests.serve.tiny import greedy

pytestmark = pytest.mark.slow
LONG = {"prompt": ["a"] * 200, "max_tokens": 90, "min_tokens": 90, "temperature": 0}


@pytest.fixture(scope="module")
def model(opt: OPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(opt, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def server(model: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with command("--path", model, "--port", 0, "--model-parallel-size", 2) as process:
        url = address(process)
        wait_for(lambda: status_of(url) == 200)
        yield process, url


def started_by(process: int) -> list[int]:
    """The processes that any thread of ``process`` has started."""
    found = Path(f"/proc/{process}/task").glob("*/children")
    return [int(pid) for file in found for pid in file.read_text().split()]


def is_running(process: int) -> bool:
    """Whether there is such a process, and not as a zombie only."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def asked(url: str, answers: list[Any], **fields: Any) -> threading.Thread:
    """A thread that asks, once the batch is under way."""
    asking = threading.Thread(
        target=lambda: answers.append(httpx2.post(f"{url}v1/completions", json=fields, timeout=60))
    )
    asking.start()
    wait_for(lambda: re.search(r"metaseq_batch_rows [1-9]", httpx2.get(f"{url}metrics").text))
    return asking


def test_two_ranks_answer_as_one_and_are_let_go(
    server: tuple[subprocess.Popen[str], str], opt: OPT
) -> None:
    process, url = server
    others = started_by(process.pid)
    assert len(others) == 1
    prompts = ["the cat", "a dog ate", "naïve"]
    fields = {"prompt": prompts, "max_tokens": 12, "temperature": 0}
    answer = httpx2.post(f"{url}v1/completions", json=fields).json()
    expected = [greedy(opt, prompt, 12).text for prompt in prompts]
    assert [choice["text"] for choice in answer["choices"]] == expected
    answers: list[httpx2.Response] = []
    asking = asked(url, answers, **LONG)
    process.send_signal(signal.SIGTERM)
    asking.join()
    assert answers[0].json()["usage"]["completion_tokens"] == 200 * 90
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, "")
    assert ", float32 on each of 2 ranks" in out
    wait_for(lambda: not is_running(others[0]), 10)


@pytest.mark.parametrize("streams", [True, False])
def test_a_rank_that_dies_ends_the_server_with_the_reason(
    server: tuple[subprocess.Popen[str], str], streams: bool
) -> None:
    process, url = server
    answers: list[httpx2.Response] = []
    asking = asked(url, answers, **LONG, stream=streams)
    for other in started_by(process.pid):
        os.kill(other, signal.SIGKILL)
    begun = time.monotonic()
    _, err = process.communicate(timeout=SECONDS)
    asking.join()
    assert time.monotonic() - begun < 10
    assert process.returncode == 1, err
    sentence = "All 2 ranks that hold the model must run, but rank 1 ended by SIGKILL."
    assert err.splitlines()[-1].startswith(f"metaseq serve: error: {sentence}")
    assert "Traceback" not in err
    assert answers[0].status_code == (200 if streams else 500)
    assert sentence in answers[0].text.splitlines()[-1 if not streams else -2]


def test_a_rank_that_dies_while_nothing_is_asked_ends_it_too(
    server: tuple[subprocess.Popen[str], str],
) -> None:
    process, _ = server
    for other in started_by(process.pid):
        os.kill(other, signal.SIGKILL)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, err
    assert err.count("rank 1 ended by SIGKILL") == 1
    assert "Traceback" not in err


def test_it_may_be_stopped_while_it_loads(model: Path) -> None:
    with command("--path", model, "--port", 0, "--model-parallel-size", 2) as process:
        address(process)
        others = wait_for(lambda: started_by(process.pid))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0
        wait_for(lambda: not any(map(is_running, others)), 20)


def test_a_model_that_cannot_be_cut_so_ends_it(model: Path) -> None:
    with command("--path", model, "--port", 0, "--model-parallel-size", 3) as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "error: `--model-parallel-size` must divide the model's attention heads" in err
    assert "Traceback" not in err


def test_torchrun_may_start_the_ranks(model: Path, opt: OPT) -> None:
    words = [
        "torchrun",
        "--nproc-per-node",
        "2",
        "--no-python",
        "metaseq",
        "serve",
        "--path",
        str(model),
    ]
    more = ["--port", "0", "--model-parallel-size", "2"]
    with subprocess.Popen([*words, *more], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("loading "))
            url = line.split(": ")[1].split("health")[0]
            wait_for(lambda: status_of(url) == 200)
            fields = {"prompt": "the cat", "max_tokens": 12, "temperature": 0}
            answer = httpx2.post(f"{url}v1/completions", json=fields).json()
            assert answer["choices"][0]["text"] == greedy(opt, "the cat", 12).text
        finally:
            process.terminate()
            process.wait(60)
