"""A run says, behind its first update, how long it took until then and on what."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from metaseq_plugin.ledger import first_update
from metaseq_plugin.ledger.files import read_ledger
from metaseq_plugin.ledger.telling import told
from tests.fairseq_runs import train

RUN = ("--task", "opt_dummy_lm", "--dict-size", 90, "--disable-validation")


def test_each_start_tells_of_its_first_update_once(tmp_path: Path) -> None:
    for start, last in enumerate((2, 3)):
        ended = train(None, tmp_path, *RUN, "--max-update", last)
        assert ended.status == 0, ended.output
        assert (
            len(re.findall(r"started    first update after [\d.]+ s: imports ", ended.output)) == 1
        )
        kinds = [event["kind"] for event in read_ledger(tmp_path).events if event["start"] == start]
        assert kinds.count("first_update") == 1
    first, second = read_ledger(tmp_path).of("first_update")
    assert (first["update"], second["update"]) == (1, 3)
    parts = [first[name] for name in ("imports", "model", "data", "step")]
    assert first["seconds"] == pytest.approx(sum(parts))
    assert min(parts) > 0
    assert re.fullmatch(r".+, .+ imports, .+ model, .+ data, .+ step", told(first))


def test_a_run_without_a_ledger_says_it_too(tmp_path: Path) -> None:
    ended = train(None, tmp_path, *RUN, "--max-update", 1, "--no-save")
    assert "first update after" in ended.output


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        ({}, ""),
        ({"fxgraph_cache_miss": 2}, "; 0 of 2 graphs from the cache"),
        ({"fxgraph_cache_hit": 3, "fxgraph_cache_bypass": 1}, "; 3 of 4 graphs from the cache"),
    ],
)
def test_compiled_graphs_are_counted(
    counted: dict[str, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamo = SimpleNamespace(counters={"inductor": counted})
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", dynamo)
    words = first_update.words(2.0, {"imports": 1.5, "step": 0.5}, first_update.compiled())
    assert words == f"first update after 2 s: imports 1.5, step 0.5{said}"
