"""Serves the control socket in the parent's own loop: nothing here waits, and everything has a bound.

A connection may ask one thing after the other. Each turn of the loop takes one request of each; who sends more is not
read meanwhile, who does not read its answers is dropped, and when all places are taken the oldest makes room.
"""

import logging
import os
import pwd
import selectors
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from hexa_worker.processes.control.messages import MAX_LINE, Refused, Reply, read_request, write_line
from hexa_worker.processes.control.operations import Operations
from hexa_worker.processes.control.socket_path import listen

CONNECTIONS: Final = 32
MAX_UNSENT: Final = 8 * 1024 * 1024
"""Bytes of answers that a client has not read."""
IDLE_S: Final = 60.0
"""A connection that asks nothing for so long is closed."""
PAUSE_S: Final = 0.2
"""When no connection can be accepted: the process is out of descriptors or memory."""
READ_SIZE: Final = 16 * 1024
_CREDENTIALS: Final = struct.Struct("3i")

log = logging.getLogger("hexa_worker.processes")


class Peer(NamedTuple):
    """Who is at the other end, by the kernel."""

    pid: int
    uid: int

    @property
    def name(self) -> str:
        """For the history."""
        try:
            user = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            user = f"user {self.uid}"
        return f"{user} (process {self.pid})"


class ControlConnection:
    """One connection.

    Args:
        connection: its socket, non-blocking.
        peer: who it is.
        now: the time.

    Attributes:
        deadline: when it is closed, if it asks nothing.
        awaits: how many answers it still gets.
        over: nothing more can be said to it.
        watched: what the loop waits for.
    """

    def __init__(self, connection: socket.socket, peer: Peer, now: float) -> None:
        self.connection = connection
        self.peer = peer
        self.deadline = now + IDLE_S
        self.awaits = 0
        self.over = False
        self.watched = 0
        self._ended = False  # it says nothing more, but may listen
        self._read = bytearray()
        self._unsent = bytearray()

    @property
    def wants(self) -> int:
        """What it waits for."""
        reading = 0 if self.asks or self._ended else selectors.EVENT_READ
        return reading | (selectors.EVENT_WRITE if self._unsent else 0)

    @property
    def done(self) -> bool:
        """It has its answers, and asks nothing more."""
        return self.over or (self._ended and not (self.asks or self.awaits or self._unsent))

    @property
    def asks(self) -> bool:
        """A whole request of it waits."""
        return b"\n" in self._read

    def go_on(self) -> None:
        """Read and write what can be."""
        try:
            if not self.asks and not self._ended:
                data = self.connection.recv(READ_SIZE)
                self._ended = not data
                self._read += data
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.over = True
        self.push()

    def take(self) -> bytes | None:
        """One request; None: there is none. One that is too long ends the connection."""
        line, separator, rest = self._read.partition(b"\n")
        if len(line) > MAX_LINE:
            self.answer(Refused(code="limit", message=f"a request of more than {MAX_LINE:,} bytes"))
            self.over = True
            return None
        if not separator:
            return None
        self._read = bytearray(rest)
        return bytes(line)

    def answer(self, reply: Reply) -> None:
        """Send an answer, as far as it goes now."""
        self.over = self.over or len(self._unsent) > MAX_UNSENT  # of earlier answers, which it does not read
        self._unsent += write_line(reply)
        self.push()

    def push(self) -> None:
        """Write what can be."""
        try:
            while self._unsent:
                del self._unsent[: self.connection.send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.over = True


class ControlServer:
    """See the module.

    Args:
        path: the socket.
        selector: of the parent's loop; the server's entries have a callable as their data.
        operations: does what is asked.
        monotonic: the clock.
    """

    def __init__(
        self, path: Path, selector: selectors.BaseSelector, operations: Operations, monotonic: Callable[[], float]
    ) -> None:
        self._path = path
        self._selector = selector
        self._operations = operations
        self._monotonic = monotonic
        self._clients: dict[socket.socket, ControlConnection] = {}  # the oldest first
        self._accepts_at: float | None = None
        self._listener: socket.socket | None = None
        try:
            self._listener = listen(path)
        except OSError as error:
            log.warning("nobody can control this worker: %s: %s", path, error.strerror or error)
            return
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def advance(self) -> float | None:
        """Take a request of everybody, and look after what is under way; seconds until it is due again."""
        for client in list(self._clients.values()):
            self._take(client)
        due = self._operations.advance()
        now = self._monotonic()
        for client in list(self._clients.values()):
            if client.done or (not client.awaits and now >= client.deadline):
                self._drop(client)
            else:
                self._watch(client)
        if any(client.asks for client in self._clients.values()):
            return 0.0
        dues = [client.deadline - now for client in self._clients.values() if not client.awaits]
        dues += [] if due is None else [due]
        if self._accepts_at is not None:
            dues.append(self._accept_again(now))
        return max(min(dues), 0.0) if dues else None

    def close(self) -> None:
        """Answer what is under way, and serve no more."""
        self._operations.close()
        for client in list(self._clients.values()):
            self._drop(client)
        if self._listener is not None:
            if self._accepts_at is None:
                self._selector.unregister(self._listener)
            self._listener.close()
            with suppress(OSError):
                self._path.unlink()

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - it was just heard
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # out of descriptors or memory, or the client has gone already
            self._selector.unregister(self._listener)
            self._accepts_at = self._monotonic() + PAUSE_S
            return
        connection.setblocking(False)  # noqa: FBT003 - positional-only
        peer = _peer_of(connection)
        if peer.uid not in (0, os.geteuid()):  # the socket's mode says so too, where the system keeps it
            connection.close()
            return
        if len(self._clients) >= CONNECTIONS:
            waiting = [one for one in self._clients.values() if not one.awaits]
            self._drop((waiting or list(self._clients.values()))[0])
        self._clients[connection] = ControlConnection(connection, peer, self._monotonic())  # the next turn looks at it

    def _accept_again(self, now: float) -> float:
        """Listen again after a pause; seconds until then."""
        assert self._listener is not None  # noqa: S101 - it paused
        assert self._accepts_at is not None  # noqa: S101 - as above
        if now < self._accepts_at:
            return self._accepts_at - now
        self._accepts_at = None
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        return 0.0

    def _take(self, client: ControlConnection) -> None:
        line = client.take()
        if line is None or not line.strip():
            return
        client.deadline = self._monotonic() + IDLE_S
        asked = read_request(line)
        if isinstance(asked, Refused):
            client.answer(asked)
            return
        client.awaits += 1
        self._operations.ask(asked, client.peer.name, lambda reply: self._answer(client, reply))

    def _answer(self, client: ControlConnection, reply: Reply) -> None:
        client.answer(reply)
        if reply.__struct_config__.tag != "accepted":
            client.awaits -= 1

    def _watch(self, client: ControlConnection) -> None:
        """Have the loop look at what it waits for, and at nothing while that is nothing."""
        if client.watched == client.wants:
            return
        if client.watched:
            self._selector.unregister(client.connection)
        client.watched = client.wants
        if client.watched:
            self._selector.register(client.connection, client.watched, client.go_on)

    def _drop(self, client: ControlConnection) -> None:
        if self._clients.pop(client.connection, None) is not None:
            if client.watched:
                self._selector.unregister(client.connection)
            client.connection.close()


def _peer_of(connection: socket.socket) -> Peer:
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid)
