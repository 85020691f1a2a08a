"""The examples of docs/serve.md and README, run as a reader would type them, against a server on a port of the test's."""

import json
import shutil
import subprocess
from typing import Iterator

import pytest

from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.app import build
from metaseq_plugin.serve.loading import make_batch
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.service import Service
from tests.documented import Step, read_page
from tests.serve.live import running

HERE = "http://127.0.0.1:6010/"
STEPS = [
    step for page in ("docs/serve.md", "README.md") for step in read_page(page)
    if step.kind != "shown" and HERE in step.text
]  # fmt: skip


@pytest.fixture(scope="module")
def url(opt: OPT) -> Iterator[str]:
    engine = Engine(make_batch(opt, 4096), 4096, 16)
    service = Service(Options(name="quickstart"))
    service.open(opt, engine)
    with running(build(service), service) as started:
        yield started
    engine.close(drains=False)


def test_there_are_examples() -> None:
    assert [step.kind for step in STEPS] == ["shell", "python", "shell", "shell"]


@pytest.mark.parametrize("step", [step for step in STEPS if step.kind == "shell"])
def test_curl(url: str, step: Step) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = step.text.replace(HERE, url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert "error" not in answer, answer
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")


def test_python(url: str) -> None:
    (step,) = (step for step in STEPS if step.kind == "python")
    names: dict[str, object] = {}
    exec(step.text.replace(HERE, url), names)
    # The last event of the stream. What was drawn may be no text at all.
    for given in (names["answer"], names["chunk"]):
        assert given.choices[0].finish_reason in ("stop", "length")  # type: ignore[attr-defined]
