"""A tiny model that writes texts, its engine, and its server as a client sees it."""

from typing import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from metaseq_plugin.generation.batch import Batch
from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.app import build
from metaseq_plugin.serve.loading import make_batch
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.service import Service
from tests.serve.tiny import NAME, tiny_opt


@pytest.fixture(scope="session")
def opt(tmp_path_factory: pytest.TempPathFactory) -> OPT:
    return tiny_opt(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def batch(opt: OPT) -> Batch:
    """What the engine steps; modules that need another one define theirs."""
    return make_batch(opt, 4096)


@pytest.fixture(scope="module")
def engine(batch: Batch) -> Iterator[Engine]:
    started = Engine(batch, 4096, 16)
    yield started
    started.close(drains=False)


@pytest.fixture(scope="module")
def service(opt: OPT, engine: Engine) -> Service:
    made = Service(Options(name=NAME))
    made.open(opt, engine)
    return made


@pytest.fixture(scope="module")
def app(service: Service) -> FastAPI:
    return build(service)


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as started:
        yield started
