"""The account of one run as one screen of text.

    print("\n".join(screen(account, columns=80)))

From the top: how it stands, what ran, the loss curve, the time accounted for to 100 %, the starts and what each lost,
computation, energy and carbon with where each number is from, and the last events. What does not fit stands below.
"""

import textwrap
from typing import Any, List, Mapping, Sequence

from metaseq_plugin.compat.errors import printable
from metaseq_plugin.ledger.account import KINDS, RUNNING, UNKNOWN, Account, Number, Start
from metaseq_plugin.ledger.telling import told
from metaseq_plugin.ledger.words import SPENT, clock, day, duration, quantity, shares
from metaseq_plugin.report.curve import KEPT, LOST, VALID, Dot, draw

LEAST_COLUMNS, MOST_COLUMNS = 40, 120  # of a terminal, that are used
CURVE_LINES = 8
EVENTS, STARTS = 8, 8  # the last ones are shown
INDENT = "  "
BEGINNINGS = ("start", "ready")  # events before which no update is known
# Events that every run has many of: the screen leaves them out.
ROUTINE = ("ready", "first_update", "save", "valid", "overflow", "loss_scale", "rank")
NUMBERS = {
    "model_flops": "model FLOPs",
    "model_flops_causal": "causal",
    "hardware_flops": "hardware FLOPs",
    "device_hours": "device-hours",
    "device_kwh": "devices' energy",
    "kwh": "energy",
    "co2e": "CO2e",
}


def screen(account: Account, columns: int) -> List[str]:
    """The lines, none longer than ``columns``."""
    parts = [
        head(account, columns),
        what_ran(account, columns),
        loss_curve(account, columns),
        time_table(account, columns),
        starts_table(account, columns),
        numbers_table(account, columns),
        events_table(account, columns),
        [line for problem in account.problems for line in wrapped(problem, columns)],
    ]
    return stacked(parts, columns)


def live(account: Account, columns: int, height: int) -> List[str]:
    """What fits a terminal of ``height`` lines: how it stands, the curve, time and energy in a sentence, last events."""
    spent = [kind for kind in KINDS if account.seconds[kind] > 0]
    texts = shares([account.seconds[kind] for kind in spent])
    times = ", ".join(f"{SPENT[kind]} {share}" for kind, share in zip(spent, texts, strict=True))
    used = ", ".join(
        f"{quantity(found.value, found.unit)} ({found.basis})" if found.value is not None else f"{name} {UNKNOWN}"
        for name, found in ((name, account.numbers[name]) for name in ("kwh", "co2e"))
    )  # fmt: skip
    sentences = [f"time: {duration(account.wall_seconds)}, {times}", f"energy and CO2e: {used}"]
    sentences += account.problems
    above = stacked(
        [
            head(account, columns),
            loss_curve(account, columns),
            [line for sentence in sentences for line in wrapped(sentence, columns, most=3)],
        ],
        columns,
    )
    room = height - len(above) - 2  # a blank line, and the title of the events
    return stacked([above, events_table(account, columns, room) if room > 0 else []], columns)[
        :height
    ]


def columns_of(columns: int) -> int:
    """How wide a screen is in a terminal of so many columns."""
    return max(LEAST_COLUMNS, min(MOST_COLUMNS, columns))


def stacked(parts: Sequence[Sequence[str]], columns: int) -> List[str]:
    """The parts that are not empty, a blank line between them."""
    text = "\n\n".join("\n".join(part) for part in parts if part)
    return [cut(line, columns) for line in text.split("\n")]


def cut(text: str, columns: int) -> str:
    text = printable(text)
    return text if len(text) <= columns else f"{text[: columns - 1]}…"


def wrapped(text: str, columns: int, first: str = "", most: int = 6) -> List[str]:
    """Lines of ``text`` behind ``first``, the later ones indented; the end of what is longer is left out."""
    return textwrap.wrap(
        printable(text), columns, initial_indent=first, subsequent_indent=" " * max(len(first), len(INDENT)),
        max_lines=most, placeholder=" …", break_on_hyphens=False,
    )  # fmt: skip


def head(account: Account, columns: int) -> List[str]:
    reached = f"{account.update:,}"
    if account.max_update is not None:
        share = f" ({account.update / account.max_update:.1%})" if account.max_update else ""
        reached += f" of {account.max_update:,}{share}"
    done = account.updates
    lost = f", {done.done:,} made, {done.lost:,} of them lost" if done.lost else ""
    to_go = account.eta_seconds
    ahead = f", about {duration(to_go)} to go" if to_go is not None else ""
    reason = f" ({account.reason})" if account.reason not in ("", account.state) else ""
    numbers = account.numbers
    said = [f"{reached} updates{lost}", f"{quantity(account.tokens, 'tokens')}"]
    said += [
        f"{label} {quantity(numbers[name].value, '')}{unit}"
        for name, label, unit in (("loss", "loss", ""), ("tokens_per_second", "", " tokens/s"))
        if numbers[name].value is not None
    ]
    said += [
        f"{name.upper()} {quantity(numbers[name].value, numbers[name].unit)}"
        for name in ("mfu", "hfu")
        if numbers[name].value is not None
    ]
    lines = wrapped(f"{account.run}: {account.state}{reason}{ahead}", columns)
    return lines + wrapped(", ".join(text.strip() for text in said), columns, INDENT)


def what_ran(account: Account, columns: int) -> List[str]:
    what = account.what
    git, hardware, data, versions = (
        what[name] if isinstance(what.get(name), Mapping) else {}
        for name in ("git", "hardware", "data", "versions")
    )
    command = str(what.get("command", "not in the ledger"))
    lines = wrapped(command, columns, f"{INDENT}command   ", most=4)
    device = str(hardware.get("device", "unknown device"))
    device += f" ({hardware['cpu']})" if hardware.get("cpu") and device == "cpu" else ""
    devices = f"{hardware.get('devices', '?')} x {device}"
    nodes = count(hardware["nodes"], "node") if number(hardware, "nodes") else ""
    dirty = ", with changes" if git.get("is_dirty") else ""
    rows = {
        "code": f"{str(git['commit'])[:12]} ({git.get('branch')}{dirty})" if git.get("commit") else "",
        "versions": ", ".join(
            f"{name} {versions[name]}" for name in ("metaseq-plugin", "torch", "fairseq", "python")
            if versions.get(name)
        ),
        "hardware": ", ".join(text for text in (devices, nodes) if text) if hardware else "",
        "data": data_text(data),
        "model": quantity(what["num_parameters"], "parameters") if number(what, "num_parameters") else "",
    }  # fmt: skip
    return lines + [
        cut(f"{INDENT}{name:<9} {text}", columns) for name, text in rows.items() if text
    ]


def count(value: int, unit: str) -> str:
    """``1 start``, ``2 starts``."""
    return f"{value:,} {unit}{'' if value == 1 else 's'}"


def number(what: Mapping[str, Any], name: str) -> bool:
    return isinstance(what.get(name), (int, float))


def data_text(data: Mapping[str, Any]) -> str:
    if not data.get("path"):
        return ""
    size = quantity(data["bytes"], "bytes") if number(data, "bytes") else ""
    digest = f"hash {str(data['hash'])[:12]}" if data.get("hash") else ""
    files = f"{data['files']} files" if "files" in data else ""
    return ", ".join(text for text in (str(data["path"]), files, size, digest) if text)


def loss_curve(account: Account, columns: int) -> List[str]:
    dots = [
        Dot(point.update, point.loss, KEPT if point.is_kept else LOST)
        for point in account.curve
        if point.loss is not None
    ]
    for event in account.valid:
        if number(event, "loss"):
            dots.append(Dot(event["update"], float(event["loss"]), VALID))
    drawn = draw(dots, columns - len(INDENT), CURVE_LINES)
    signs = {dot.sign for dot in dots}
    legend = "".join(
        f"; {sign} {words}"
        for sign, words in ((LOST, "updates that were lost"), (VALID, "validation"))
        if sign in signs
    )
    return [f"loss, bits a token{legend}", *(INDENT + line for line in drawn)] if drawn else []


def time_table(account: Account, columns: int) -> List[str]:
    """Every second, by what it was spent on; the shares add up to 100.0 %."""
    kinds = [kind for kind in KINDS if account.seconds[kind] > 0]
    texts = shares([account.seconds[kind] for kind in kinds])
    if not texts:
        return []
    whole = account.wall_seconds
    names = max(len(SPENT[kind]) for kind in kinds)
    room = columns - names - 24
    lines = [cut(f"time: {duration(whole)} from {moment(account.begin)} UTC", columns)]
    for kind, share in zip(kinds, texts, strict=True):
        spent = account.seconds[kind]
        bar = "#" * round(room * spent / whole)
        lines.append(
            f"{INDENT}{SPENT[kind]:<{names}} {duration(spent):>9} {share:>8} {bar}".rstrip()
        )
    return lines


def moment(when: float) -> str:
    return f"{day(when)} {clock(when)}"


def starts_table(account: Account, columns: int) -> List[str]:
    """A line for each start: what it made, what was lost of it and why it ended."""
    left_out = len(account.starts) - STARTS
    lines = [
        f"starts: {len(account.starts):,}"
        + (f", the last {STARTS} of them" if left_out > 0 else ""),
        f"{INDENT}{'':>4} {'began (UTC)':<16} {'took':>9} {'updates':>16} {'lost':>6}  ended",
    ]
    return lines + [cut(start_line(start), columns) for start in account.starts[-STARTS:]]


def start_line(start: Start) -> str:
    first = "-" if start.first_update is None else f"{start.first_update:,}-{start.last_update:,}"
    why = (
        RUNNING
        if start.state == RUNNING
        else (
            start.reason
            if start.reason.startswith(start.state)
            else f"{start.state}: {start.reason}"
        )
    )
    return (
        f"{INDENT}{start.number:>4} {moment(start.begin)} {duration(start.end - start.begin):>9} "
        f"{first:>16} {start.updates.lost:>6,}  {why}"
    )


def numbers_table(account: Account, columns: int) -> List[str]:
    """Computation, energy and carbon: the number, where it is from, and its formula."""
    lines = ["computation and energy of all starts"]
    for name, label in NUMBERS.items():
        found: Number = account.numbers[name]
        value = "" if found.value is None else quantity(found.value, found.unit)
        begin = f"{INDENT}{label:<15} {value:>15} {found.basis:<9} "
        lines += textwrap.wrap(
            printable(found.formula), columns, initial_indent=begin, subsequent_indent=" " * len(begin),
            break_on_hyphens=False,
        ) or [begin.rstrip()]  # fmt: skip
    return lines


def events_table(account: Account, columns: int, most: int = EVENTS) -> List[str]:
    """The last ones that are not routine."""
    events: Sequence[Mapping[str, Any]] = [e for e in account.events if e["kind"] not in ROUTINE]
    if not events:
        return []
    lines = [f"events: the last of {len(events):,} (all: --chronicle)"]
    for event in events[-most:]:
        update = event.get("update")
        has_update = isinstance(update, int) and event["kind"] not in BEGINNINGS
        where = f"{update:,}" if has_update else ""
        kind = event["kind"].replace("_", " ")
        text = printable(told(event))
        lines.append(cut(f"{INDENT}{moment(event['time'])} {where:>9} {kind:<10} {text}", columns))
    return lines
