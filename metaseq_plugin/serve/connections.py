"""A connection that does not send its request or take its answer in time is closed; what is no HTTP is told so in JSON.

uvicorn bounds how large a request's head is and how long an answered connection may idle, but not how long a head
may take: a client that sends a byte now and then would hold its connection for ever, and so would one that stops
reading. Nor are there too few files for all clients: beyond ``most_connections`` a connection is answered 503 at once.
Bodies are watched in ``bodies``.
"""

import asyncio
import json
import resource
from typing import Any, Optional

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from metaseq_plugin.serve.errors import ApiError

HEAD_SECONDS = 10.0
WRITE_SECONDS = 30.0  # in which a client must take ``WRITE_BYTES`` of its answer, or the rest of it
WRITE_BYTES = 2**16
MAX_CONNECTIONS = 1000
RESERVED_FILES = 64  # for all that is no connection
SURPLUS_SECONDS = 1.0


def most_connections() -> int:
    """How many connections this process has files for, and serves at once."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, files - RESERVED_FILES))


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with limits on the times in which a client owes something."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.is_surplus = False
        self.patience: Optional[asyncio.TimerHandle] = None  # for a request
        self.taking: Optional[asyncio.TimerHandle] = None  # for an answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # to know of every byte that is not taken
        self.is_surplus = len(self.connections) > most_connections()
        self.watch()

    def data_received(self, data: bytes) -> None:
        if self.is_surplus:
            self.answer(too_many_connections())
            return
        super().data_received(data)
        self.watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.watch()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        super().connection_lost(exc)
        self.forget()
        self.forget_unsent()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.watch_unsent()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.forget_unsent()

    def watch(self) -> None:
        """Let the time run while no request is being answered."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering:
            self.forget()
        elif self.patience is None:
            seconds = SURPLUS_SECONDS if self.is_surplus else HEAD_SECONDS
            self.patience = self.loop.call_later(seconds, self.transport.close)

    def forget(self) -> None:
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None

    def watch_unsent(self) -> None:
        """Let the time run while a part of an answer is not taken."""
        unsent = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() > unsent - WRITE_BYTES:
                self.transport.abort()
            else:
                self.watch_unsent()

        self.taking = self.loop.call_later(WRITE_SECONDS, look)

    def forget_unsent(self) -> None:
        if self.taking is not None:
            self.taking.cancel()
            self.taking = None

    def send_400_response(self, msg: str) -> None:
        self.answer(ApiError(400, "A request must be HTTP/1.1, but is not. Use an HTTP client."))

    def answer(self, error: ApiError) -> None:
        """Say ``error``, where no answer has begun, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = json.dumps(error.body()).encode()
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
                "Connection": "close",
                **error.headers,
            }
            for event in (
                h11.Response(
                    status_code=error.status, headers=list(headers.items()), reason=b"Refused"
                ),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            # Its request is answered with this: what else it says finds nobody.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def too_many_connections() -> ApiError:
    return ApiError(
        503,
        f"The server must have at most {most_connections()} connections, but has more. "
        "Send the request again later.",
        code="too_many_connections",
        headers={"Retry-After": "1"},
    )
