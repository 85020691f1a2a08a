"""The sets themselves, where the shared folder has them: checksums, counts, and models that know nothing."""

import hashlib
from pathlib import Path
from typing import Callable

import pytest

from metaseq_plugin.evaluate.bias import bbq, holistic_bias, stereoset, winobias, winogender
from metaseq_plugin.evaluate.task import Task
from tests.evaluate.bias.measuring import OPTIONS, Folder, figures, noise, records, uniform

SharedFile = Callable[[str], Path]


@pytest.fixture
def data(shared_file: SharedFile) -> Folder:
    return Folder(shared_file("data/eval"))


@pytest.mark.parametrize(
    ("task", "nitems", "nrequests"),
    [
        (stereoset.StereoSet(), 2106 + 2123, 3 * 4229),
        (bbq.BBQ(), 1200 + 864, 3 * 2064),
        (winobias.WinoBias(), 4 * 396, 2 * 1584),
        (winogender.Winogender(), 720, 2 * 720),
    ],
    ids=lambda value: value.name if not isinstance(value, int) else "",
)
def test_all_rows_are_read(
    data: Folder, shared_file: SharedFile, task: Task, nitems: int, nrequests: int
) -> None:
    for file in task.files:
        content = shared_file(f"data/eval/{file.path}").read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256
    items = task.items(data, OPTIONS)
    assert len(items) == len({item.id for item in items}) == nitems
    assert sum(len(item.requests) for item in items) == nrequests


def test_all_phrases_are_made(data: Folder, shared_file: SharedFile) -> None:
    for file in holistic_bias.HolisticBias.files:
        content = shared_file(f"data/eval/{file.path}").read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256
    phrased = list(holistic_bias.described(data))
    assert len({(phrases.axis, phrases.descriptor) for phrases in phrased}) == len(phrased) == 660
    assert {len(phrases.filled) for phrases in phrased} == {32}
    assert len(holistic_bias.templates(data)) == 26


def test_stereosets_kinds(data: Folder) -> None:
    kinds = [item.about["kind"] for item in stereoset.StereoSet().items(data, OPTIONS)]
    assert [kinds.count(kind) for kind in stereoset.KINDS] == [2106, 2123]


def test_a_uniform_model_is_at_chance_on_stereoset(data: Folder) -> None:
    task = stereoset.StereoSet()
    assert len(stereoset.terms(records(task, data, uniform), is_normalised=True)) == 79
    found = figures(task, data, uniform)
    for (name, group), measure in found.items():
        if "unnormalised" not in name:
            assert measure.value == 50, (name, group)
    assert found["lms", "overall"].n == 4229


def test_noise_is_at_chance_on_stereoset(data: Folder) -> None:
    found = figures(stereoset.StereoSet(), data, noise(7))
    for name in ("lms", "ss"):
        measure = found[name, "overall"]
        assert measure.stderr is not None
        assert measure.stderr < 1.5
        assert abs(measure.value - 50) < 3 * measure.stderr
