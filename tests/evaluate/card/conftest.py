"""Models on disk for the card: a Hugging Face folder, and the folder of a run in which everything happened."""

import shutil
from pathlib import Path

import pytest

from metaseq_plugin.formats.model import read_model
from metaseq_plugin.formats.tensors import count_parameters
from tests.formats.folders import run_convert, write_hf
from tests.report.page.runs import eventful_run


@pytest.fixture(scope="session")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-hf"
    write_hf(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(hf: Path) -> Path:
    """The same model as fairseq saves it, without a ledger."""
    folder = hf.with_name("tiny")
    run_convert(hf, folder, "--to", "fairseq")
    return folder / "checkpoint.pt"


@pytest.fixture(scope="session")
def num_parameters(hf: Path) -> int:
    return count_parameters(read_model(hf).tensors.twins)[0]


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Path:
    """A run's folder with a ledger of 3 starts, 400 updates kept and 57 lost."""
    folder = tmp_path / "run"
    shutil.copytree(checkpoint.parent, folder)
    eventful_run(folder)
    return folder
