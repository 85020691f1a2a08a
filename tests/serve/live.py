"""A server on a real port: in a thread of the test, or as the command ``metaseq serve``."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import httpx2
from fastapi import FastAPI

from metaseq_plugin.generation.batch import Batch
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.running import Server, listen, url_of
from metaseq_plugin.serve.service import Service
from tests.opt_models import config, hf_twin
from tests.serve.tiny import SIZES

SECONDS = 180.0


@contextmanager
def running(app: FastAPI, service: Service) -> Iterator[str]:
    """The address of a server in a thread."""
    listening = listen("127.0.0.1", 0)
    server = Server(app, service)
    url = url_of(listening)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()


class SlowBatch(Batch):
    """A batch whose steps take a while, as a large model's do."""

    pause = 0.02

    def step(self) -> Any:
        time.sleep(self.pause)
        return super().step()


def slow_batch(opt: OPT) -> SlowBatch:
    return SlowBatch([opt.model], opt.generator.pad, opt.generator.eos, 4096)


def wait_for(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What ``condition`` gives once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come to be in time")


def write_model(opt: OPT, folder: Path) -> Path:
    """The model and its tokenizer as a Hugging Face folder."""
    twin = hf_twin(opt.model.decoder, config(**SIZES))
    twin.save_pretrained(folder)
    assert opt.tokenizer is not None
    opt.tokenizer.save(folder)
    return folder


@contextmanager
def command(*options: Any) -> Iterator[subprocess.Popen[str]]:
    """``metaseq serve`` with ``options``, killed at the end unless it has ended."""
    words = [
        sys.executable,
        "-c",
        "import sys; from metaseq_plugin.cli import main; sys.exit(main())",
    ]
    process = subprocess.Popen(
        [*words, "serve", *map(str, options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """Where a server that has just been started will answer."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("loading "), line + process.communicate()[1]
    return line.split(": ")[1].split("health")[0]


def status_of(url: str) -> Optional[int]:
    """What ``/health`` answers; None where nobody does."""
    try:
        return httpx2.get(f"{url}health").status_code
    except httpx2.TransportError:
        return None
