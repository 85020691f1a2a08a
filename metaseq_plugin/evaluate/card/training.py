"""The sections on what the model learned from and what that took, by the ledger; without one, that nothing is known."""

from collections import Counter
from typing import Any, Mapping, Optional

from metaseq_plugin.evaluate.card.markdown import UNKNOWN, code, plain_text, table
from metaseq_plugin.ledger.account import Account, Number
from metaseq_plugin.ledger.words import duration, quantity

NO_LEDGER = "Unknown: no ledger of its training lies beside the model."
ENERGY = {
    "device_hours": "device-hours",
    "model_flops": "operations of the model",
    "device_kwh": "energy of the devices",
    "pue": "PUE (energy of the building over that of its machines)",
    "kwh": "energy at the building's meter",
    "intensity": "carbon intensity",
    "co2e": "CO₂e",
}
# Options that say most of how it was trained -> in words.
OPTIONS = {
    "task._name": "task",
    "task.tokens_per_sample": "tokens a sample, at most",
    "optimizer._name": "optimizer",
    "optimization.lr": "learning rate",
    "lr_scheduler._name": "schedule",
    "optimization.clip_norm": "gradients are clipped at",
    "common.seed": "seed",
}
STARTED_FROM = "checkpoint.finetune_from_model"


def data(account: Optional[Account]) -> list[str]:
    """Where the data lay, how much there was, and its hash."""
    if account is None:
        return [NO_LEDGER]
    found = fields(account.what, "data")
    rows = {
        "folder": code(str(found["path"])) if found.get("path") else UNKNOWN,
        "files": counted(found, "files"),
        "bytes": counted(found, "bytes"),
        "hash": code(str(found["hash"])) if found.get("hash") else UNKNOWN,
        "tokens learned from": f"{account.tokens:,}, repeats included",
    }
    return [
        *table(["", ""], rows.items()),
        "",
        "The hash is SHA-256 over names, sizes, and both ends of each file. What the texts are, from where they "
        "come and what they may hold that is private or harmful, the ledger does not say.",
    ]


def training(account: Optional[Account]) -> list[str]:
    """Updates, time, stops, and how it was trained."""
    if account is None:
        return [NO_LEDGER]
    updates = account.updates
    before = f", {updates.unseen:,} of another run" if updates.unseen else ""
    rows = {
        "the run has": plain_text(state(account)),
        "updates": f"{account.update:,}{before}",
        "updates that were lost": f"{updates.lost:,} (made again, or never)",
        "tokens": f"{account.tokens:,}, and {account.tokens_lost:,} in updates that were lost",
        "time": f"{duration(account.wall_seconds)}, of which computing {duration(account.seconds['computing'])}",
        "starts": starts(account),
        "hardware": hardware(fields(account.what, "hardware")),
        "training loss": text_of(account.numbers["loss"]),
        "last validation": validation(account),
        **options(account),
    }
    return table(["", ""], rows.items())


def energy(account: Optional[Account]) -> list[str]:
    """Each number with how it is known; every update that was made counts, lost ones too."""
    if account is None:
        return [NO_LEDGER]
    rows = [[label, text_of(account.numbers[key])] for key, label in ENERGY.items()]
    return table(["of all updates, lost ones too", ""], rows)


def state(account: Account) -> str:
    reason = f": {account.reason}" if account.reason and account.reason != account.state else ""
    ahead = f" of {account.max_update:,} updates" if account.max_update is not None else ""
    return f"{account.state} at update {account.update:,}{ahead}{reason}"


def starts(account: Account) -> str:
    """``3 (1 killed, 2 stopped)``."""
    ended = Counter(start.state for start in account.starts)
    return f"{len(account.starts):,} ({', '.join(f'{count:,} {name}' for name, count in ended.items())})"


def hardware(found: Mapping[str, Any]) -> str:
    if not found.get("device"):
        return UNKNOWN
    number = found.get("nodes")
    nodes = f" on {number:,} node{'' if number == 1 else 's'}" if isinstance(number, int) else ""
    cpu = f", {found['cpu']}" if found.get("cpu") else ""
    return plain_text(f"{found.get('devices', '?')} × {found['device']}{nodes}{cpu}")


def validation(account: Account) -> str:
    if not account.valid:
        return "none is recorded"
    last = account.valid[-1]
    return plain_text(
        f"{last.get('subset', 'valid')} at update {last.get('update', '?')}: {said(last.get('loss'))} bits a token, "
        f"perplexity {said(last.get('ppl'))}"
    )


def options(account: Account) -> dict[str, str]:
    """Those of ``OPTIONS`` that the last start had, and what it started from."""
    given = fields(account.what, "options")
    found = {
        label: plain_text(one(given[key])) for key, label in OPTIONS.items() if known(given, key)
    }
    if known(given, STARTED_FROM):
        found["started from"] = code(str(given[STARTED_FROM]))
    return found


def known(given: Mapping[str, Any], key: str) -> bool:
    return given.get(key) not in (None, "", [])


def one(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def said(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else UNKNOWN


def text_of(number: Number) -> str:
    """With how it is known, and its formula."""
    if number.value is None:
        return plain_text(f"{UNKNOWN} ({number.formula})")
    formula = f": {number.formula}" if number.formula else ""
    return plain_text(f"{quantity(number.value, number.unit)} ({number.basis}{formula})")


def counted(found: Mapping[str, Any], name: str) -> str:
    return f"{found[name]:,}" if isinstance(found.get(name), int) else UNKNOWN


def fields(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return said[name] if isinstance(said.get(name), Mapping) else {}
