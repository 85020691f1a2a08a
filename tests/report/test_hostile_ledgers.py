"""Whatever stands in a ledger, a report of it is a report or one sentence, and adds up."""

import json
import random
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, List

from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.read_account import read_account
from metaseq_plugin.report.chronicle import chronicle
from metaseq_plugin.report.page.file import page_text
from metaseq_plugin.report.runs import account_of
from metaseq_plugin.report.screen import live, screen
from metaseq_plugin.report.table import table
from tests.ledger.written import usual_run

NUMBERS = (0, -1, 3, 10**18, 10**400, -(10**400), 1e308, -1e308, 1e-300, float("nan"), float("inf"))
VALUE = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.text(max_size=5),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value: Any) -> List["tuple[Any, Any]"]:
    """Every (container, key) in a row, those within its mappings and lists too."""
    here: List["tuple[Any, Any]"]
    if isinstance(value, dict):
        here = [(value, key) for key in value]
    elif isinstance(value, list):
        here = [(value, key) for key in range(len(value))]
    else:
        return []
    return here + [place for container, key in here for place in places(container[key])]


def spoil(rows: List[Dict[str, Any]], values: List[Any], chance: random.Random) -> None:
    """Put each value somewhere into the rows."""
    for value in values:
        container, key = chance.choice([place for row in rows for place in places(row)])
        container[key] = deepcopy(value)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUE, min_size=1, max_size=6), st.lists(VALUE, max_size=6), st.randoms())
def test_spoiled_fields(of_events: List[Any], of_lines: List[Any], chance: random.Random) -> None:
    with TemporaryDirectory() as folder:
        run = usual_run(Path(folder))
        run.rows = json.loads(json.dumps(run.rows))  # nothing is shared
        run.lines = json.loads(json.dumps(run.lines))
        spoil(run.rows, of_events, chance)
        spoil(run.lines, of_lines, chance)
        try:
            account = account_of(run.write())
        except UserError:
            return
        assert account.updates.kept + account.updates.lost == account.updates.done
        assert min(account.seconds.values()) >= 0
        for lines in (screen(account, 80), live(account, 80, 23), table([account, account], 80)):
            assert all(line.isprintable() for line in lines)
        assert chronicle(account).startswith("# Chronicle")
        json.dumps(account.as_json(), allow_nan=False)
        assert page_text([account]).startswith("<!")


def test_spoiled_events_of_the_launcher(tmp_path: Path) -> None:
    run = usual_run(tmp_path).write()
    for spoiled in (
        {"time": 10**400, "kind": "failed"},
        {"time": 1.0, "kind": "end", "start": [0]},
    ):
        account = read_account(run, [spoiled])
        assert screen(account, 80)
        assert chronicle(account)
