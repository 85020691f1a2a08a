"""Why a run ended: of the statuses and the last words of its ranks, one sentence, and whose fault it is.

(1) The rank that others only lost is the one to ask: who lost one says so (``compat/last_words``) and is passed over.
(2) Its reason is the last line that names an error, or the signal that ended it; SIGKILL is looked up in the kernel's
    count of processes that it ended for want of memory.
(3) What only the machine can be blamed for (a GPU or disk with errors) names the node, which the next start leaves out.
"""

import re
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import EXIT_USER_ERROR

TAIL_BYTES = 65_536
MAX_CHARACTERS = 500
LOST = re.compile(r"Another rank of this run (?:ended|did not answer)|another rank ended before")
ERROR = re.compile(
    r"fairseq-train: error: .*|(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b.*"
)
RANK_PREFIX = re.compile(r"^\[rank\d+\]: ")  # torch's, of tracebacks
# Of the machine, whatever the program does.
HARDWARE = re.compile(
    r"uncorrectable ECC|ECC error|Xid|fallen off the bus|unspecified launch failure|"
    r"CUDA error: (?:unknown error|hardware|device-side|initialization error)|NVML|"
    r"NCCL error: unhandled (?:system|cuda) error|ibv_|Input/output error|Bus error|Stale file handle"
)
SILENT = "it said nothing"
OUT_OF_MEMORY = "ran out of memory: the kernel ended it by SIGKILL"
KILLED = "was ended by SIGKILL, and the kernel has ended no process for want of memory"


@dataclass(frozen=True)
class Failure:
    """How a start of a run failed.

    Attributes:
        reason: a sentence, or the last line of the program.
        status: as Popen says it; None: no process has ended.
        rank: the first that failed.
        node: the name of its machine.
        update: the last that the run had made.
        blames_node: whether the machine is at fault.
    """

    reason: str
    status: Optional[int] = None
    rank: Optional[int] = None
    node: str = ""
    update: int = 0
    blames_node: bool = False

    @property
    def is_users(self) -> bool:
        """Whether it is a mistake in what was asked for, which no restart mends."""
        return self.status == EXIT_USER_ERROR

    @property
    def is_lost_rank(self) -> bool:
        """Whether it only says that another rank failed."""
        return LOST.search(self.reason) is not None

    def is_like(self, event: Mapping[str, Any]) -> bool:
        """Whether ``event`` records the same failure at the same update, whatever the numbers in its words.

        One that a machine is to blame for is another on another machine.
        """
        if self.blames_node and event.get("node") != self.node:
            return False
        same = without_numbers(str(event.get("reason"))) == without_numbers(self.reason)
        return same and event.get("update") == self.update

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def without_numbers(text: str) -> str:
    """``text`` without what differs from one start to the next: ports, addresses, times."""
    return re.sub(r"0x[0-9a-f]+|\d+(?:\.\d+)?", "N", text)


def signal_name(number: int) -> str:
    known = {one.value: one.name for one in signal.Signals}
    return known.get(number, f"signal {number}")


def memory_kills() -> int:
    """How many processes this kernel has ended for want of memory."""
    lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    return int(dict(line.split() for line in lines).get("oom_kill", 0))


def last_words(log: Path, begin: int) -> str:
    """The last line behind byte ``begin`` that names an error, else the last line at all."""
    with log.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(begin, size - TAIL_BYTES))
        text = stream.read().decode("utf-8", "replace")
    lines = [RANK_PREFIX.sub("", line.strip()) for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return (errors or lines or [SILENT])[-1][:MAX_CHARACTERS]


def why(rank: int, status: int, words: str, node: str, update: int, kills: int) -> Failure:
    """The failure of one rank.

    Args:
        words: its last ones.
        kills: how many processes the kernel has ended for want of memory since the rank was started.
    """
    if status == -signal.SIGKILL:
        reason = f"rank {rank} {OUT_OF_MEMORY if kills else KILLED}"
        return Failure(reason, status, rank, node, update)
    if status < 0:
        name = signal_name(-status)
        blames_node = status == -signal.SIGBUS
        return Failure(
            f"rank {rank} was ended by {name}: {words}", status, rank, node, update, blames_node
        )
    return Failure(words, status, rank, node, update, HARDWARE.search(words) is not None)


def first_of(failures: Sequence[Failure]) -> Failure:
    """The one that the others followed: not of a rank that lost another.

    Of ranks that ended in the same way it is one with a reason: a mistake that all meet only one of them says, which
    need not be the first to end.
    """
    own = [failure for failure in failures if not failure.is_lost_rank] or list(failures)
    alike = [failure for failure in own if failure.status == own[0].status]
    return next((failure for failure in alike if failure.reason != SILENT), own[0])
