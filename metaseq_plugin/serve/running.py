"""A server's life: it listens, loads its model, answers, and when it is told to stop finishes what it has begun.

(1) The port is taken first, so that one in use is told at once. (2) The model is loaded on a thread, while
``/health`` says so. (3) SIGTERM or Ctrl-C: new requests get 503; once those under way are answered, or
``--drain-timeout`` is over (a second signal: at once), the rest is cancelled, and the process ends with status 0.
An engine that fails for good, or a rank that is lost, ends the server with its reason.
"""

import asyncio
import errno
import ipaddress
import socket
import threading
import time
from types import FrameType
from typing import Callable, Optional

import uvicorn
from fastapi import FastAPI

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.leaving import leave_at_once
from metaseq_plugin.serve.connections import PatientProtocol
from metaseq_plugin.serve.service import Service

# For the last bytes of answers whose jobs have ended.
CLOSE_SECONDS = 5
BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host`` and ``port``; port 0 is any that is free.

    Raises:
        UserError: the port is in use, or the address is none of this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except UnicodeError as error:  # no name that the network's directory could have
        raise UserError(
            f"`--host` must be an address of this machine, but is {host}. Set 127.0.0.1."
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"`--port` must be free, but {port} is in use. Set another, or 0 for any."
            ) from error
        if error.errno == errno.EACCES:
            raise UserError(
                f"`--port` must be one that you may use, but {port} is not. Set 1024 or more."
            ) from error
        raise UserError(
            f"`--host` must be an address of this machine, but is {host} ({error.strerror}). "
            "Set 127.0.0.1."
        ) from error


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_exposed(listening: socket.socket) -> bool:
    """Whether other machines may reach it."""
    return not ipaddress.ip_address(listening.getsockname()[0]).is_loopback


class Server(uvicorn.Server):
    """uvicorn's server, which drains its service before it exits.

    Attributes:
        failure: what ends it, where that is an error.
    """

    def __init__(self, app: FastAPI, service: Service) -> None:
        config = uvicorn.Config(
            app, http=PatientProtocol, ws="none", lifespan="off", access_log=False, log_level="error",
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=CLOSE_SECONDS,
        )  # fmt: skip
        super().__init__(config)
        self.service = service
        self.failure: Optional[BaseException] = None
        self.drained_by = float("inf")  # on the clock of time.monotonic

    def handle_exit(self, sig: int, frame: Optional[FrameType]) -> None:
        """A signal: drain; another one: drain no longer."""
        wait = 0.0 if self.service.is_draining else self.service.options.drain_timeout
        self.service.drain()
        self.drained_by = time.monotonic() + wait

    def fail(self, failure: BaseException) -> None:
        """End with ``failure``; from any thread."""
        self.failure, self.should_exit = failure, True

    async def on_tick(self, counter: int) -> bool:
        loaded = self.service.loaded
        failure = loaded.engine.failure if loaded is not None else None
        failure = self.service.lost or failure
        if failure is not None:
            self.fail(failure)
        if self.service.is_draining:
            is_late = time.monotonic() >= self.drained_by
            if is_late and loaded is not None:
                await asyncio.to_thread(loaded.engine.close, False)
            self.should_exit |= is_late or self.service.metrics.in_flight == 0
        return await super().on_tick(counter)


def serve(
    app: FastAPI, service: Service, listening: socket.socket, load: Callable[[], None]
) -> None:
    """Serve until a signal comes; one that comes while the model is loaded ends the process here, with status 0.

    Args:
        load: opens the service, on a thread of its own.

    Raises:
        What ``load`` raises, or what ended the engine.
    """
    server = Server(app, service)

    def loading() -> None:
        try:
            load()
        except BaseException as error:  # noqa: BLE001  it is raised below
            server.fail(error)

    thread = threading.Thread(target=loading, name="loading", daemon=True)
    thread.start()
    server.run(sockets=[listening])
    if thread.is_alive():  # stopped before the model was there; nobody can stop the reading of it
        leave_at_once(0)
    service.close()
    if server.failure is not None:
        raise server.failure
