"""Bring a real SLURM of two nodes up on this machine, in one folder, and down again: to try launching, and for tests.

    python scripts/slurm_cluster.py up DIR          # starts what does not run yet; prints what a shell needs
    eval "$(python scripts/slurm_cluster.py env DIR)"
    srun -N 2 hostname; sbatch …; sacct             # as on any cluster
    python scripts/slurm_cluster.py status DIR
    python scripts/slurm_cluster.py down DIR

As root, with Debian's packages PACKAGES. Configuration, keys, state, logs and sockets lie below DIR; no service
of the system and no file of /etc is touched, and all ports are free ones of the loopback. The steps of ``up``:
(1) write DIR/slurm.conf and DIR/slurmdbd.conf from scripts/slurm/, once;
(2) start munged, MariaDB (its socket only), slurmdbd, slurmctld and ``slurmd -N n1``, ``slurmd -N n2``, each as
    soon as the one before answers;
(3) wait until both nodes are idle.

The nodes are two names of this machine, with --cpus each whatever it has; n1 is no host name, `scontrol show node n1`
tells its address. Jobs of the partition ``work`` are requeued when one of the partition ``urgent`` wants their nodes,
--grace seconds after they are told.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Set

PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # where Debian has daemons; not on every user's PATH
NODES = ("n1", "n2")
# Of MariaDB, which would take 180 MB on the disk and as much memory, and wait for the disk at each of SLURM's steps.
SMALL_DATABASE = (
    "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
)
START_SECONDS = 60.0
END_SECONDS = 20.0
LONGEST_SOCKET = 107  # bytes of a Unix socket's path, of unix(7)

TEMPLATES = Path(__file__).with_name("slurm")
SETTINGS = "slurm.conf"
BOOKS_SETTINGS = "slurmdbd.conf"


def fail(message: str) -> NoReturn:
    print(f"slurm_cluster: error: {message}", file=sys.stderr)
    raise SystemExit(2)


class Daemon(NamedTuple):
    """One program of the cluster, in the foreground of its own session.

    Attributes:
        answers: whether it can be worked with.
    """

    name: str
    command: List[str]
    answers: Callable[[], bool]


class Options(NamedTuple):
    """How the cluster behaves; times in seconds."""

    cpus: int = 4
    kill_wait: int = 20
    node_timeout: int = 15
    requeue_wait: int = 10
    grace: int = 30


def what_is_missing() -> Optional[str]:
    """Why no cluster can be brought up here, in one sentence; None where one can."""
    missing = [name for name in PROGRAMS if find(name) is None]
    if missing:
        install = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        return f"{', '.join(missing)} must be installed, but cannot be found. `{install}` does it."
    if os.geteuid() != 0:
        return "slurmd must be started by root, but this is another user. Call it with sudo."
    return None


def find(program: str) -> Optional[str]:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def started_at(process: int) -> Optional[str]:
    """When a process started, in ticks since the boot; None where there is none. Tells it from a later one."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def listens(address: object) -> bool:
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as client, contextlib.suppress(OSError):
        client.settimeout(1.0)
        client.connect(address)  # type: ignore[arg-type]
        return True
    return False


def free_ports(count: int) -> List[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def children() -> Dict[int, List[int]]:
    """process -> its children, of all processes."""
    found: Dict[int, List[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(stat.parent.name))
    return found


def filled(template: str, values: Dict[str, object]) -> str:
    return (TEMPLATES / template).read_text().format(**values)


class Cluster:
    """The cluster in ``folder``; its daemons by name: munged, mariadbd, slurmdbd, slurmctld, slurmd-n1, slurmd-n2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @property
    def conf(self) -> Path:
        return self.folder / SETTINGS

    def exports(self) -> Dict[str, str]:
        """What a shell needs for srun, sbatch and their like to mean this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def environment(self) -> Dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        path = f"{kept.get('PATH', '')}:{SYSTEM_PATH}"
        # slurmdbd finds MariaDB's socket by MYSQL_UNIX_PORT alone.
        database = str(self.folder / "db.socket")
        return {**kept, **self.exports(), "PATH": path, "MYSQL_UNIX_PORT": database}

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints; "" where it fails."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=30)  # fmt: skip
        return done.stdout if done.returncode == 0 else ""

    def setting(self, name: str, conf: str = SETTINGS) -> str:
        """A value of the configuration as it was written."""
        for line in (self.folder / conf).read_text().splitlines():
            if line.startswith(f"{name}="):
                return line.partition("=")[2]
        raise KeyError(name)

    @property
    def cpus(self) -> int:
        """Of each node."""
        found = re.search(r"^NodeName=.* CPUs=(\d+)", self.conf.read_text(), re.MULTILINE)
        assert found is not None, self.conf
        return int(found[1])

    def write(self, options: Options) -> None:
        """Configuration, folders and an empty database."""
        ctld, dbd, *slurmd = free_ports(2 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={options.cpus} "
            f"RealMemory={memory}"
            for node, port in zip(NODES, slurmd)
        )
        values = {"folder": self.folder, "host": host, "ctld_port": ctld, "dbd_port": dbd, "nodes": nodes,
                  "first_job": ctld, **options._asdict()}  # fmt: skip
        for name in ("log", "state", "spool", "run"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for path, text in {"munge.key": os.urandom(128),
                           BOOKS_SETTINGS: filled(BOOKS_SETTINGS, values).encode()}.items():  # fmt: skip
            (self.folder / path).touch(mode=0o600)
            (self.folder / path).write_bytes(text)
        if not (self.folder / "db").exists():
            made = subprocess.run(
                [str(find("mariadb-install-db")), "--no-defaults", f"--datadir={self.folder}/db", "--user=root",
                 "--auth-root-authentication-method=socket", "--skip-test-db", "--skip-name-resolve", *SMALL_DATABASE],
                capture_output=True, text=True,
            )  # fmt: skip
            if made.returncode:
                fail(
                    f"mariadb-install-db failed with status {made.returncode}: {made.stderr.strip()[-1000:]}"
                )
        self.conf.write_text(filled(SETTINGS, values))  # last: with it, all is written

    def daemons(self) -> List[Daemon]:
        folder, local = self.folder, "127.0.0.1"
        munge, database = str(folder / "munge.socket"), str(folder / "db.socket")
        munged = ["munged", "-F", "--force", f"--key-file={folder}/munge.key", f"--socket={munge}",
                  f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed", "--num-threads=2"]  # fmt: skip
        mariadbd = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/db", f"--socket={database}",
                    f"--pid-file={folder}/mariadbd.pid", "--skip-networking", "--innodb-lock-wait-timeout=900",
                    *SMALL_DATABASE]  # fmt: skip
        dbd = (local, int(self.setting("DbdPort", BOOKS_SETTINGS)))
        return [
            Daemon("munged", munged, lambda: listens(munge)),
            Daemon("mariadbd", mariadbd, lambda: listens(database)),
            Daemon("slurmdbd", ["slurmdbd", "-D"], lambda: listens(dbd)),
            Daemon("slurmctld", ["slurmctld", "-D"], lambda: "is UP" in self.ask("scontrol", "ping")),
            *(
                Daemon(f"slurmd-{node}", ["slurmd", "-D", "-N", node], partial(self.is_up, node))
                for node in NODES
            ),
        ]  # fmt: skip

    def is_up(self, node: str) -> bool:
        """Whether SLURM would give ``node`` work, or has."""
        return self.ask("sinfo", "-h", "-n", node, "-p", "work", "-o", "%t").strip() in {"idle", "mix", "alloc"}  # fmt: skip

    def process(self, name: str) -> Optional[int]:
        """The process of a daemon; None where it does not run."""
        with contextlib.suppress(OSError, ValueError):
            process, started = (self.folder / "run" / name).read_text().split()
            return int(process) if started_at(int(process)) == started else None
        return None

    def start(self, daemon: Daemon) -> None:
        """Start it, if it does not run, and wait until it answers."""
        log = self.folder / "log" / f"{daemon.name}.out"
        if self.process(daemon.name) is None:
            program, *arguments = daemon.command
            with log.open("ab") as output:
                process = subprocess.Popen(
                    [str(find(program)), *arguments], env=self.environment(), cwd=self.folder,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
            (self.folder / "run" / daemon.name).write_text(
                f"{process.pid} {started_at(process.pid)}"
            )
        runs = lambda: self.process(daemon.name) is not None  # noqa: E731
        if not wait_until(lambda: not runs() or daemon.answers(), START_SECONDS) or not runs():
            said = log.read_text(errors="replace").strip()[-1000:]
            fail(
                f"{daemon.name} must answer within {START_SECONDS:g} s, but does not. It said:\n{said}"
            )

    def up(self, options: Optional[Options] = None) -> None:
        """Start what does not run. SystemExit with a sentence where that cannot be."""
        missing = what_is_missing()
        if missing:
            fail(missing)
        if not re.fullmatch(r"[\w/.+-]+", str(self.folder), re.ASCII):
            fail(f"DIR must have a path of letters, digits and any of /._+-, but is {self.folder}. Set another.")  # fmt: skip
        longest = len(os.fsencode(self.folder / "munge.socket"))
        if longest > LONGEST_SOCKET:
            fail(f"DIR must have a path of at most {LONGEST_SOCKET - longest + len(str(self.folder))} characters, but "
                 f"is {self.folder}. Set a shorter one.")  # fmt: skip
        if not self.conf.exists():
            self.write(options or Options())
        for daemon in self.daemons():
            self.start(daemon)

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """Signal one daemon and wait until it has gone; after END_SECONDS it is killed. Its jobs go on."""
        process = self.process(name)
        if process is None:
            return
        os.kill(process, number)
        if not wait_until(lambda: self.process(name) is None, END_SECONDS):
            os.kill(process, signal.SIGKILL)
            wait_until(lambda: self.process(name) is None, END_SECONDS)

    def step_processes(self) -> Set[int]:
        """The slurmstepds of this cluster and all that they started."""
        mark = f"SLURM_CONF={self.conf}\0".encode()
        tree, found = children(), set()
        for exe in Path("/proc").glob("[0-9]*/exe"):
            with contextlib.suppress(OSError):
                is_step = os.readlink(exe).endswith("slurmstepd")
                if is_step and mark in exe.with_name("environ").read_bytes():
                    found.add(int(exe.parent.name))
        queue = list(found)
        while queue:
            below = tree.get(queue.pop(), [])
            found.update(below)
            queue.extend(below)
        return found

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait until they have gone."""
        for state in ("PENDING", "RUNNING", "SUSPENDED"):
            self.ask("scancel", f"--state={state}")
        wait_until(
            lambda: not self.ask("squeue", "-h").strip(), float(self.setting("KillWait")) + 5
        )

    def down(self) -> None:
        """Cancel all jobs and end every daemon; files stay."""
        if not self.conf.exists():
            return
        if self.process("slurmctld") is not None:
            self.cancel_all()
        for daemon in reversed(self.daemons()):
            self.end(daemon.name)
        for process in self.step_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def status(self) -> Iterator[str]:
        """A line for each daemon, then SLURM's own of nodes and jobs."""
        for daemon in self.daemons() if self.conf.exists() else ():
            process = self.process(daemon.name)
            yield f"{daemon.name:12}{'down' if process is None else f'process {process}'}"
        if self.conf.exists() and self.process("slurmctld") is not None:
            yield from self.ask("sinfo", "-N", "-o", "%.6N %.9P %.8t %.6c").splitlines()
            yield from self.ask("squeue").splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("action", choices=("up", "down", "env", "status"))
    parser.add_argument("dir", type=Path, metavar="DIR")
    for option, default, words in (
        ("--cpus", Options().cpus, "CPUs of each node"),
        ("--kill-wait", Options().kill_wait, "seconds between SIGTERM and SIGKILL"),
        ("--node-timeout", Options().node_timeout, "seconds until a node that does not answer is down"),
        ("--requeue-wait", Options().requeue_wait, "seconds until a requeued job may start again"),
        ("--grace", Options().grace, "seconds between being told and being preempted"),
    ):  # fmt: skip
        parser.add_argument(option, type=int, default=default, help=f"{words} (default: {default}); of the first `up`")  # fmt: skip
    args = parser.parse_args()
    cluster = Cluster(args.dir)
    if args.action == "up":
        cluster.up(Options(*(getattr(args, name) for name in Options._fields)))
    elif args.action == "down":
        cluster.down()
    elif args.action == "status":
        print("\n".join(cluster.status()) or f"no cluster in {args.dir}")
    elif not cluster.conf.exists():
        fail(f"DIR must be of a cluster, but {args.dir} has no slurm.conf. `up {args.dir}` makes one.")  # fmt: skip
    if args.action in ("up", "env"):
        for name, value in cluster.exports().items():
            print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
