"""The plot across sizes: what is in its panels, and what it refuses."""

import sys
from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.plot import bars, panels, published_series, write_plot
from metaseq_plugin.evaluate.task import Measure
from tests.evaluate.told_results import crows_pairs, ethos, lambada, results, task

SIZES = [
    results("opt-1.3b", 1_315_758_080, lambada=lambada(57.5)),
    results("opt-125m", 125_239_296, lambada=lambada(37.5), ethos=ethos()),
]


def test_a_panel_is_a_figure_of_all_items_over_sizes() -> None:
    found = panels(SIZES)
    assert [panel.title for panel in found] == [
        "LAMBADA: perplexity", "LAMBADA: acc", "ETHOS: f1 zero-shot", "ETHOS: f1 one-shot", "ETHOS: f1 few-shot binary",
    ]  # fmt: skip
    acc = [(point.size, point.measure.value) for point in found[1].points]
    assert acc == [(125_239_296, 37.5), (1_315_758_080, 57.5)]
    assert [panel.title for panel in panels([results(crows_pairs=crows_pairs())])] == [
        "CrowS-Pairs: stereotype score", "CrowS-Pairs: likelihood difference",
    ]  # fmt: skip


def test_sizes_of_opt_are_one_series_and_others_stand_alone() -> None:
    perplexity, _, zero_shot, *_ = panels(SIZES)
    (opt,) = published_series(perplexity.published)
    assert opt[0] == "OPT, published"
    assert [row.value for row in opt[1]] == [26.02, 16.40, 6.64, 5.12, 4.25, 4.04, 3.63, 3.29]
    both = {name: [row.value for row in rows] for name, rows in published_series(zero_shot.published)}  # fmt: skip
    assert both == {"OPT, published": [0.667], "Davinci, published": [0.628]}


def test_a_bar_is_the_standard_error_else_the_interval() -> None:
    every = [
        Measure("a", 5.0, 0.5, 9),
        Measure("a", 5.0, None, 9, interval=(4.0, 7.0)),
        Measure("a", 5.0, None, 9),
    ]
    points = panels([results(f"{n}", n, a=task(measure)) for n, measure in enumerate(every, 1)])[0].points  # fmt: skip
    assert bars(points) == [[0.5, 1.0, 0.0], [0.5, 2.0, 0.0]]
    assert bars(points[2:]) is None


@pytest.mark.parametrize(
    ("given", "name", "sentence"),
    [
        (SIZES, "sizes.pdf", "`--plot` must end in .svg or .png, but is sizes.pdf. Set another name."),
        ([results("served", None)], "sizes.svg", "`--plot` must have results of models whose size is known, but that of served is not. Measure it from its files instead of through a server."),
        ([results(a=task(Measure("x", 1.0, None, 1, "women")))], "sizes.svg", "`--plot` must have results with a figure of all items, but they have none. Leave it out."),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said(given, name: str, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError) as error:
        write_plot(given, Path(name))
    assert str(error.value) == sentence


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'metaseq-plugin\[plot\]'"):
        write_plot(SIZES, Path("sizes.svg"))


@pytest.mark.parametrize("name", ["sizes.svg", "sizes.png"])
def test_the_same_results_are_the_same_file(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    contents = []
    for folder in ("a", "b"):
        write_plot(SIZES, tmp_path / folder / name)
        contents.append((tmp_path / folder / name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0][:5] in (b"<?xml", b"\x89PNG\r")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^`--plot` must be a file that can be written"):
        write_plot(SIZES, tmp_path / "file" / name)
