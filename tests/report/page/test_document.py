"""The numbers behind the page: columns, plots, marks, time and comparison, by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.ledger.account import Account
from metaseq_plugin.report.page.document import document
from metaseq_plugin.report.page.file import as_data
from metaseq_plugin.report.page.norms import by_kind, chosen
from tests.ledger.written import BEGIN, WrittenRun, usual_run
from tests.report.page.runs import account, eventful_run, plain_run


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Account:
    return account(eventful_run(tmp_path_factory.mktemp("run") / "opt"))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Account:
    return account(usual_run(tmp_path_factory.mktemp("run") / "opt").write())


def only(accounts: list[Account]) -> dict[str, Any]:
    found: dict[str, Any] = document(accounts)["runs"][0]
    return found


def test_columns_say_where_and_whether_kept(usual: Account) -> None:
    columns = only([usual])["tables"]["updates"]
    assert columns["update"] == [10, 20, 30, 40, 50, 55, 65, 75, 85, 95, 100]
    assert columns["kept"] == [1] * 11  # no line covers the seven updates that the kill cost
    assert columns["start"] == [0] * 3 + [1] * 3 + [2] * 5
    assert columns["hours"][0] == pytest.approx((12 + 10) / 3600, rel=1e-6)
    assert columns["mfu"] == [35.0] * 11
    assert columns["tokens_per_second"][0] == 512
    assert "watts" not in columns
    assert "loss_scale" not in columns


def test_tokens_are_those_of_the_way_to_an_update(eventful: Account) -> None:
    """Each update has as many; what was lost stands beside what was made in its place."""
    tables = only([eventful])["tables"]
    columns = tables["updates"]
    each = columns["tokens"][0] / 10
    assert each > 0
    assert columns["tokens"] == [each * update for update in columns["update"]]
    assert tables["valid valid"]["tokens"] == [each * 300, each * 400]
    marks = {mark["text"]: mark for mark in only([eventful])["marks"]}
    spike = next(mark for text, mark in marks.items() if text.startswith("spike"))
    assert spike["tokens"] == each * spike["update"]
    assert sorted({mark["tokens"] for mark in marks.values() if mark["group"] == "start"}) == [
        0, each * 200, each * 300,
    ]  # fmt: skip


def test_validations_have_a_table_of_their_own(usual: Account) -> None:
    columns = only([usual])["tables"]["valid valid"]
    assert (columns["update"], columns["loss"], columns["kept"]) == ([50], [4.5], [1])


def test_lost_updates_are_marked(eventful: Account) -> None:
    columns = only([eventful])["tables"]["updates"]
    lost = [update for update, kept in zip(columns["update"], columns["kept"]) if not kept]
    assert lost == [210, 220, 230, 320, 330]


def test_plots_without_a_number_are_left_out(usual: Account) -> None:
    plots = {plot["key"]: plot for plot in document([usual])["plots"]}
    assert list(plots) == ["loss", "gnorm", "lr", "clip", "speed", "utilisation"]
    assert [line["name"] for line in plots["loss"]["lines"]] == ["train", "valid"]
    assert [line["name"] for line in plots["utilisation"]["lines"]] == ["MFU", "HFU"]


def test_norms_of_many_layers_are_thinned_out(eventful: Account) -> None:
    columns = only([eventful])["tables"]["norms gradients"]
    names = [name for name in columns if name.startswith("norm ")]
    assert names == [
        *(f"norm layer {layer}" for layer in (0, 2, 3, 5, 7, 9, 10)),
        "norm outside the layers",
    ]
    assert columns["norm layer 10"][0] == pytest.approx(0.02 * (1 + 10 / 4))


@pytest.mark.parametrize(
    ("norms", "found"),
    [
        ({"gradients": [0.5, 2]}, {"gradients": {"layer 0": 0.5, "layer 1": 2.0}}),
        (
            {"activations": [3], "weights": [9, 40]},
            {
                "activations": {"layer 0": 3.0},
                "weights": {"layer 0": 9.0, "outside the layers": 40.0},
            },
        ),
        ({"gradients": [None, 2, "?"], "weights": []}, {"gradients": {"outside the layers": 2.0}}),
        ({"gradients": 3, "weights": [math.nan]}, {}),
    ],
)
def test_norms_are_read_by_kind(norms: dict[str, Any], found: dict[str, Any]) -> None:
    assert by_kind(norms) == found


def test_the_first_and_the_last_layer_are_among_the_chosen() -> None:
    names = [f"{layer}" for layer in range(96)]
    assert chosen(names, 2) == ["0", "95"]
    assert chosen(names, 8)[::7] == ["0", "95"]
    assert chosen(names[:3], 8) == ["0", "1", "2"]


def test_starts_and_stops_are_marks_even_of_a_killed_start(usual: Account) -> None:
    marks = [(mark["group"], mark["update"], mark["text"]) for mark in only([usual])["marks"]]
    assert marks == [
        ("start", 0, "start 0 at update 0"),
        ("stop", 37, "start 0 killed at update 37: killed without a word"),
        ("start", 30, "start 1 at update 30"),
        ("stop", 55, "start 1 stopped at update 55: stopped by SIGTERM"),
        ("start", 55, "start 2 at update 55"),
        ("stop", 100, "start 2 finished at update 100"),
        (
            "save",
            30,
            "save at update 30: runs/a/checkpoint_1_30.pt, 2 s, 2 s of them the run stood, 4 MB",
        ),
    ]


def test_time_is_whole(eventful: Account) -> None:
    time = only([eventful])["time"]
    assert math.fsum(part["seconds"] for part in time["parts"]) == pytest.approx(
        eventful.wall_seconds
    )
    assert sum(float(part["share"].split()[0]) for part in time["parts"]) == pytest.approx(100)
    assert time["together"][1] == "100.0 %"


def test_numbers_stand_with_basis_and_formula(usual: Account) -> None:
    rows = {label: rest for label, *rest in only([usual])["numbers"]}
    assert rows["PUE"][:2] == ["1.1", "assumed"]
    kwh = usual.numbers["kwh"].value
    assert kwh is not None
    assert rows["CO₂e"][0] == f"{kwh * 385:.4g} g"
    assert rows["CO₂e"][1] == "estimated"
    assert "g/kWh / 1000" in rows["CO₂e"][2]


def test_what_ran_is_told_in_words(usual: Account) -> None:
    said = dict(only([usual])["what"])
    assert said["Command"] == "fairseq-train data --arch opt_125m"
    assert said["Code"] == "0123456789abcdef on main"
    assert said["Hardware"] == "8 × NVIDIA A100-SXM4-80GB, 1 node, node1"
    assert said["Data"] == f"data, 4 files, hash {'f00d' * 16}"
    assert said["Parameters"] == "1000"


def test_routine_events_in_a_row_are_one_entry(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run")
    run.start(first=0)
    for loss in (5.0, 4.5, 4.0):
        run.updates(10)
        run.event("valid", subset="valid", loss=loss, ppl=2.0**loss, seconds=4.0)
    run.end()
    (day,) = only([account(run.write())])["chronicle"]
    assert day["day"] == "2026-11-27"
    texts = [entry["text"] for entry in day["entries"]]
    assert "3 validations at updates 10 to 30, loss 5 → 4, 4 s each" in texts


def test_runs_are_compared_and_told_apart(tmp_path: Path) -> None:
    runs = [account(plain_run(tmp_path / place / "opt", updates=100)) for place in ("x", "y")]
    found = document(runs)
    assert [run["name"] for run in found["runs"]] == ["opt (1)", "opt (2)"]
    assert [row[:4] for row in found["comparison"]["rows"]] == [
        ["opt (1)", "finished", "100 of 100", "51,200"],
        ["opt (2)", "finished", "100 of 100", "51,200"],
    ]
    (utilisation,) = (plot for plot in found["plots"] if plot["key"] == "utilisation")
    assert [(line["name"], line["colour"], line["dash"]) for line in utilisation["lines"]] == [
        ("opt (1): MFU", 0, 0), ("opt (1): HFU", 0, 1), ("opt (2): MFU", 1, 0), ("opt (2): HFU", 1, 1),
    ]  # fmt: skip


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run")
    run.start(first=0)
    run.kill()
    found = document([account(run.write())])
    assert found["plots"] == []
    assert found["runs"][0]["starts"]["rows"][0][0] == "0"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KINDS = (
    "start", "ready", "first_update", "resume", "save", "valid", "lr", "loss_scale", "overflow", "skipped", "spike", "rewind",
    "nonfinite", "signal", "lost_rank", "hang", "excluded", "note", "end", "of a later version",
)  # fmt: skip
FIELDS = (
    "path", "seconds", "stall", "bytes", "subset", "loss", "ppl", "changed", "before", "now", "of", "value", "z",
    "skipped_updates", "lr_factor", "text", "author", "reason", "update", "layout", "hardware", "git", "data",
    "options", "command", "num_parameters", "flops_per_token", "versions",
)  # fmt: skip


@given(
    kind=st.sampled_from(KINDS),
    fields=st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
    when=st.floats(allow_nan=False, allow_infinity=False),
)
def test_whatever_an_event_holds_there_is_a_page(
    tmp_path_factory: pytest.TempPathFactory, kind: str, fields: dict[str, Any], when: float
) -> None:
    run = WrittenRun(tmp_path_factory.mktemp("any") / "run")
    run.start(first=0)
    run.updates(20)
    run.rows.append({"update": 20, "start": 0, **fields, "time": when, "kind": kind})
    found = document([account(run.write())])
    assert json.loads(as_data(found))["runs"][0]["name"] == "run"


def test_a_page_says_when_it_was_made(usual: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: BEGIN)
    assert document([usual])["made"] == "Made on 2026-11-27 at 18:33 UTC"
