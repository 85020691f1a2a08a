"""Where an agent runs: which job, which of its nodes, and where its ranks meet.

``Place.here()`` asks submitit, which reads SLURM's variables or those that its local executor sets.
"""

import os
import socket
import subprocess
from dataclasses import dataclass

# Where ranks meet: below the ports that Linux gives out by itself (32768 and above).
FIRST_PORT, NUM_PORTS = 20_000, 10_000
PORTS_OF_A_START = 2  # for the ranks, and for the agents
NEXT_START = 617  # pairs of ports further, coprime to their number
LOOPBACK = "lo"


@dataclass(frozen=True)
class Place:
    """One node of a job.

    Attributes:
        executor: submitit's name of what started the job: "slurm", "local", "debug".
        job: its id, of an array "17_3"; a requeued job keeps it.
        number: of the job alone, also in an array.
        node: this node among ``hosts``, the nodes of the job in SLURM's order.
        requeues: how often the job was started before.
    """

    executor: str
    job: str
    number: int
    node: int
    hosts: tuple[str, ...]
    requeues: int

    @classmethod
    def here(cls) -> "Place":
        from submitit import JobEnvironment

        environment = JobEnvironment()
        executor = environment.cluster
        numbers = {"slurm": os.environ.get("SLURM_JOB_ID"), "local": environment.job_id}
        number = numbers.get(executor) or os.getpid()
        hosts = environment.hostnames if executor == "slurm" else [socket.gethostname()]
        requeues = int(os.environ.get("SLURM_RESTART_COUNT") or 0) if executor == "slurm" else 0
        return cls(
            executor, environment.job_id, int(number), environment.node, tuple(hosts), requeues
        )

    @property
    def host(self) -> str:
        return self.hosts[self.node]

    @property
    def is_first(self) -> bool:
        """Whether the agent here decides for all."""
        return self.node == 0

    @property
    def is_slurm(self) -> bool:
        return self.executor == "slurm"

    def ports(self, start: int) -> tuple[int, int]:
        """MASTER_PORT and the agents' port of the job's ``start``-th start: another pair each time.

        Both lie in 20000 … 29999. Jobs with neighbouring numbers never share one.
        """
        pair = (self.number + NEXT_START * start) % (NUM_PORTS // PORTS_OF_A_START)
        first = FIRST_PORT + PORTS_OF_A_START * pair
        return first, first + 1

    def first_address(self) -> str:
        """MASTER_ADDR: the first host, by an address where only SLURM knows the name."""
        return "127.0.0.1" if not self.is_slurm else address_of(self.hosts[0])


def address_of(host: str) -> str:
    """``host``, or the NodeAddr that SLURM has for it where no name service knows it."""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        shown = subprocess.run(
            ["scontrol", "show", "node", "-o", host], capture_output=True, text=True
        ).stdout
        fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        return fields.get("NodeAddr", host)
    return host


def network_of(address: str) -> dict[str, str]:
    """The variable that keeps gloo on this machine where all meet on it, which need not know its own name."""
    names = [name for _, name in socket.if_nameindex()]
    is_here = address == "localhost" or address.startswith("127.")
    return {"GLOO_SOCKET_IFNAME": LOOPBACK} if is_here and LOOPBACK in names else {}
