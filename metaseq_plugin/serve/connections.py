"""A connection that does not send its request in time is closed, and what is no HTTP is told so in JSON.

uvicorn bounds how large a request's head is and how long an answered connection may idle, but not how long a head
may take: a client that sends a byte now and then would hold its connection for ever. Bodies are watched in
``bodies``.
"""

import asyncio
import json
from typing import Any, Optional

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from metaseq_plugin.serve.errors import ApiError

HEAD_SECONDS = 10.0


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with a limit on the time in which a client owes its request."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.patience: Optional[asyncio.TimerHandle] = None

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
