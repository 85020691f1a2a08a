"""One tiny model for all tests of this folder."""

import pytest

from tests.evaluate.tiny_tasks import Forms, write_forms


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Forms:
    return write_forms(tmp_path_factory.mktemp("forms"))
