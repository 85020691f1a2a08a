"""The options of the ledger, which every task of ours has: its config inherits ``LedgerOptions``."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import FairseqDataclass

from metaseq_plugin.compat.errors import UserError

INTERVAL = 10


@dataclass
class LedgerOptions(FairseqDataclass):
    """What the run writes of itself."""

    no_ledger: bool = field(
        default=False, metadata={"help": "do not keep the run's ledger in the folder of --save-dir"}
    )
    ledger_interval: int = field(
        default=INTERVAL,
        metadata={"help": "updates that one line of the ledger's numbers covers"},
    )


def option(task: Any, name: str) -> Any:
    """An option of ``cfg.task``; of a task that is not ours, the default."""
    return task[name] if name in task else LedgerOptions.__dataclass_fields__[name].default


def check_options(task: Any) -> None:
    """Refuse what no ledger can follow, in one sentence."""
    interval = option(task, "ledger_interval")
    if interval < 1:
        raise UserError(
            f"`--ledger-interval` must be at least 1, but is {interval}. Set {INTERVAL}, or --no-ledger "
            "to keep none."
        )
