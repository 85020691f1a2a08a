"""What is known of a start whose tally is older than what else it wrote."""

from pathlib import Path

import pytest

from metaseq_plugin.ledger.read_account import read_account
from tests.ledger.written import WrittenRun


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_machine_that_goes_down_leaves_an_old_tally(is_saved: bool, tmp_path: Path) -> None:
    """What is mapped into memory reaches the disk later than the events and the lines."""
    run = WrittenRun(tmp_path)
    run.start(0)
    run.updates(40)
    if is_saved:
        run.event("save", path="checkpoint_1_40.pt", seconds=1.0)
        run.lines.clear()
    run.kill()
    run.before.update(update=20, done=20)
    run.start(40)
    run.updates(10)
    run.end()
    account = read_account(run.write())
    assert account.updates == (50, 50, 0, 0)
    assert [start.updates.kept for start in account.starts] == [40, 10]
