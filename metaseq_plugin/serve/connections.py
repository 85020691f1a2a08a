"""A client that sends no request in time, or takes no answer, loses its connection; what is no HTTP is told so in JSON.

uvicorn bounds how large a request's head is and how long an answered connection may idle, but not how long a head
may take, nor an answer: a client that sends a byte now and then, or reads none, would hold its connection, and what
is kept for it, for ever. Bodies are watched in ``bodies``.
"""

import asyncio
import json
from typing import Any, Optional

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from metaseq_plugin.serve.errors import ApiError

HEAD_SECONDS = 10.0
TAKE_SECONDS = (
    30.0  # in which a client that is sent more than the network holds must take some of it
)


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with limits on the time in which a client sends its request and takes its answer."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.patience: Optional[asyncio.TimerHandle] = None
        self.taking: Optional[asyncio.TimerHandle] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.watch()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        super().connection_lost(exc)
        self.forget()
        self.forget_taking()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.watch_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.forget_taking()

    def watch_taking(self) -> None:
        """Let the time run until some of what waits has been taken."""
        waiting = self.transport.get_write_buffer_size()
        self.taking = self.loop.call_later(TAKE_SECONDS, self.check_taking, waiting)

    def check_taking(self, waiting: int) -> None:
        if self.transport.get_write_buffer_size() < waiting:
            self.watch_taking()
        else:
            self.transport.abort()

    def forget_taking(self) -> None:
        if self.taking is not None:
            self.taking.cancel()
            self.taking = None

    def watch(self) -> None:
        """Let the time run while no request is being answered."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering:
            self.forget()
        elif self.patience is None:
            self.patience = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def forget(self) -> None:
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None

    def send_400_response(self, msg: str) -> None:
        body = ApiError(400, "A request must be HTTP/1.1, but is not. Use an HTTP client.").body()
        content = json.dumps(body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        answer = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ]
        for event in answer:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
