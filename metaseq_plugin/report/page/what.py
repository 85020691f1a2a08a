"""What ran, as label and text: command, code, layout, hardware, data, versions, size; what is not known is left out."""

from typing import Any, Mapping

from metaseq_plugin.ledger.account import Account
from metaseq_plugin.ledger.history import seconds
from metaseq_plugin.ledger.words import quantity

Fields = Mapping[str, Any]


def what(account: Account) -> list[list[str]]:
    """[label, text] of each."""
    said = account.what
    rows = {
        "Command": str(said.get("command") or ""),
        "Folder": account.path,
        "Code": code(fields(said, "git")),
        "Hardware": hardware(fields(said, "hardware")),
        "Layout": listed(fields(said, "layout")),
        "Data": data(fields(said, "data")),
        "Versions": listed(fields(said, "versions")),
        "Parameters": counted(said, "num_parameters", ""),
        "FLOPs a token": counted(said, "flops_per_token", ""),
        "Peak of a device": peak(said),
    }
    return [[label, text] for label, text in rows.items() if text]


def fields(said: Fields, name: str) -> Fields:
    return said[name] if isinstance(said.get(name), Mapping) else {}


def code(git: Fields) -> str:
    changed = "with changes that are not committed" if git.get("is_dirty") else ""
    branch = f"on {git['branch']}" if git.get("branch") else ""
    return joined(" ".join([str(git["commit"]), branch]), changed) if git.get("commit") else ""


def hardware(machine: Fields) -> str:
    nodes = counted(machine, "nodes", "node" if machine.get("nodes") == 1 else "nodes")
    device = f"{machine.get('devices', '?')} × {machine['device']}" if machine.get("device") else ""
    cores = counted(machine, "cores", "cores")
    memory = counted(machine, "memory_bytes", "bytes")
    return joined(device, nodes, str(machine.get("host") or ""), str(machine.get("cpu") or ""), cores, memory)  # fmt: skip


def data(corpus: Fields) -> str:
    digest = f"hash {corpus['hash']}" if corpus.get("hash") else ""
    files = counted(corpus, "files", "files")
    return joined(str(corpus.get("path") or ""), files, counted(corpus, "bytes", "bytes"), digest)


def peak(said: Fields) -> str:
    """What utilisation is a share of, and its source."""
    rate = seconds(said.get("peak_flops"))
    if rate is None:
        return ""
    precision = f"in {said['precision']}" if said.get("precision") else ""
    text = f"{quantity(rate / 1e12, 'TFLOP/s')} {precision}"
    return joined(text.strip(), str(said.get("peak_source") or ""))


def listed(found: Fields) -> str:
    """``a 1, b 2``."""
    return joined(*(f"{name} {value}" for name, value in found.items() if value is not None))


def counted(found: Fields, name: str, unit: str) -> str:
    value = seconds(found.get(name))
    return "" if value is None else quantity(value, unit)


def joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part.strip())
