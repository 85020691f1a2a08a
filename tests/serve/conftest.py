"""A tiny model that writes texts, its engine, and its server as a client sees it."""

from typing import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.app import build_app
from metaseq_plugin.serve.loading import make_batch
from metaseq_plugin.serve.options import Options
from tests.serve.tiny import NAME, tiny_opt


@pytest.fixture(scope="session")
def opt(tmp_path_factory: pytest.TempPathFactory) -> OPT:
    return tiny_opt(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def engine(opt: OPT) -> Iterator[Engine]:
    started = Engine(make_batch(opt, 4096), 4096, 16)
    yield started
    started.close(drains=False)


@pytest.fixture(scope="module")
def app(opt: OPT, engine: Engine) -> FastAPI:
    return build_app(opt, engine, Options(name=NAME))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as started:
        yield started
