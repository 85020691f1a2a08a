"""The agents of a job's nodes, one of which decides: what they tell each other.

    team = meet(place, start, secret)      of the first node, or of another
    team.say({"kind": "stacks"})           from the first to all others; from another to the first
    team.heard()                           [(1, {"kind": "ended", …}), (2, GONE)]

One connection leads from each node to the first; when it breaks, the agent at its other end is gone. Only who knows
the job's secret is let in; who says nothing is not waited for. The messages are JSON.
"""

import json
import os
import socket
import struct
import time
from contextlib import suppress
from multiprocessing import ProcessError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
    wait,
)
from threading import Thread
from typing import Any, Optional

from metaseq_plugin.launch.jobs.lock import PATIENCE_SECONDS
from metaseq_plugin.launch.jobs.place import Place

Message = dict[str, Any]
GONE: Message = {"kind": "gone"}
HELLO, ENDED, STACKS, KILL, BYE = "hello", "ended", "stacks", "kill", "bye"
# Nodes of a job may start minutes apart, and the first one waits for the start before (``lock.py``).
SECONDS_TO_MEET = 300.0 + PATIENCE_SECONDS
SECONDS_BETWEEN_TRIES = 0.5
SECONDS_TO_GREET = 30  # for each word of it
NO_LIMIT = 0


class Team:
    """This node's connections: to all other nodes on the first, to the first on another.

    Attributes:
        connections: by node.
    """

    def __init__(self) -> None:
        self.connections: dict[int, Connection] = {}

    def say(self, message: Message) -> None:
        """To all; who is gone does not hear it, which ``heard`` tells."""
        for connection in list(self.connections.values()):
            with suppress(OSError):
                connection.send_bytes(json.dumps(message).encode())

    def heard(self) -> list[tuple[int, Message]]:
        """What came since, with the node that said it; does not wait."""
        found: list[tuple[int, Message]] = []
        nodes = {connection: node for node, connection in list(self.connections.items())}
        for ready in wait(list(nodes), timeout=0):
            node = nodes[ready]  # type: ignore[index]
            try:
                found.append((node, json.loads(self.connections[node].recv_bytes())))
            except (OSError, EOFError):
                self.connections.pop(node).close()
                found.append((node, GONE))
        return found

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()


class FirstNode(Team):
    """The agent that decides; others come to it at any time."""

    def __init__(self, place: Place, start: int, secret: bytes) -> None:
        super().__init__()
        self._listener: Optional[Listener] = None
        if len(place.hosts) > 1:
            # All come at once. Where the kernel has no room for one, that one may wait for an answer for ever.
            port = place.ports(start)[1]
            self._listener = Listener(("", port), backlog=len(place.hosts))
            arguments = (self._listener, secret)
            Thread(target=self._let_in, args=arguments, daemon=True).start()

    def _let_in(self, listener: Listener, secret: bytes) -> None:
        while True:
            try:
                connection = listener.accept()
            except OSError:
                if listener is not self._listener:  # closed
                    return
                continue
            # Who says nothing keeps no other one waiting.
            Thread(target=self._greet, args=(connection, secret), daemon=True).start()

    def _greet(self, connection: Connection, secret: bytes) -> None:
        try:
            limit_waiting(connection, SECONDS_TO_GREET)
            deliver_challenge(connection, secret)
            answer_challenge(connection, secret)
            node = int(json.loads(connection.recv_bytes())["node"])
            limit_waiting(connection, NO_LIMIT)
        except (OSError, EOFError, ValueError, KeyError, TypeError, ProcessError):
            connection.close()  # a stranger
        else:
            self.connections[node] = connection

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        super().close()


class OtherNode(Team):
    """An agent that does what the first node's says.

    Raises:
        OSError: the first node's does not answer.
    """

    def __init__(self, place: Place, start: int, secret: bytes) -> None:
        super().__init__()
        address = (place.first_address(), place.ports(start)[1])
        deadline = time.monotonic() + SECONDS_TO_MEET
        while not self.connections:
            try:
                self.connections[0] = self._greeted(Client(address), secret)
            except (OSError, EOFError) as error:  # EOFError: it has hung up
                if time.monotonic() > deadline:
                    why = f"the first node's does not answer: {str(error) or 'it hangs up'}"
                    raise OSError(why) from error
                time.sleep(SECONDS_BETWEEN_TRIES)
        self.say({"kind": HELLO, "node": place.node})

    def _greeted(self, connection: Connection, secret: bytes) -> Connection:
        try:
            limit_waiting(connection, SECONDS_TO_GREET)
            answer_challenge(connection, secret)
            deliver_challenge(connection, secret)
            limit_waiting(connection, NO_LIMIT)
        except BaseException:
            connection.close()
            raise
        return connection


def limit_waiting(connection: Connection, seconds: int) -> None:
    """From now on, whoever waits longer for a word of ``connection`` gets an OSError."""
    with socket.socket(fileno=os.dup(connection.fileno())) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


def meet(place: Place, start: int, secret: bytes) -> Team:
    return (FirstNode if place.is_first else OtherNode)(place, start, secret)
