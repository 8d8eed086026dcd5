"""The status pages: ``/live /ready /status /metrics`` for all processes together, on loopback unless told otherwise.

The least of HTTP that probes and scrapers need: one GET or HEAD per connection, all in one thread that waits for
nobody. There are few connections at a time, each has a moment for its whole request, and when all are taken the oldest
makes room: a probe is answered whoever else keeps connections open. The standard library's server would triple the
memory of what this is.
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from hexa_worker.config.model import Http
from hexa_worker.errors import ConfigError
from hexa_worker.processes.status.metrics import CONTENT_TYPE, exposition
from hexa_worker.processes.status.overview import Overview

DEADLINE_S: Final = 5.0
"""For a whole request and its answer."""
CONNECTIONS: Final = 64
BACKLOG: Final = 128
HEAD_LIMIT: Final = 16 * 1024
PAUSE_S: Final = 0.2
"""When no connection can be accepted: the process is out of descriptors or memory."""
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"

log = logging.getLogger("hexa_worker.processes")

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


def answer(path: str, look: Callable[[], Overview]) -> Answer:
    match path.partition("?")[0]:
        case "/live":
            return (200, _TEXT, b"alive\n") if look().alive else (500, _TEXT, b"not alive\n")
        case "/ready":
            return (200, _TEXT, b"ready\n") if look().ready else (503, _TEXT, b"not ready\n")
        case "/status":
            return 200, _JSON, msgspec.json.encode(look().status())
        case "/metrics":
            return 200, CONTENT_TYPE, exposition(look()).encode()
        case _:
            return 404, _TEXT, b"there is /live /ready /status /metrics\n"


def respond(head: bytes, look: Callable[[], Overview]) -> bytes:
    """The whole answer to the head of a request."""
    words = head.partition(b"\n")[0].decode("latin-1").split()
    with_body = True
    if len(words) != 3:  # noqa: PLR2004 - method, path, version
        reply: Answer = 400, _TEXT, b"this is not HTTP\n"
    elif words[0] not in ("GET", "HEAD"):
        reply = 405, _TEXT, b"GET only\n"
    else:
        with_body = words[0] == "GET"
        try:
            reply = answer(words[1], look)
        except Exception:
            log.exception("a status page failed")
            reply = 500, _TEXT, b"this page failed\n"
    status, content_type, body = reply
    start = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return start.encode() + (body if with_body else b"")


class _Connection:
    """One client, and what it has sent or still gets."""

    def __init__(self, client: socket.socket, look: Callable[[], Overview]) -> None:
        self.client = client
        self.deadline = time.monotonic() + DEADLINE_S
        self._look = look
        self._head = b""
        self._unsent: bytes | None = None

    def go_on(self) -> int:
        """Read or write what can be; the event to wait for, 0 when it is over."""
        try:
            if self._unsent is None:
                self._read()
            if self._unsent is not None:
                self._unsent = self._unsent[self.client.send(self._unsent) :]
                return selectors.EVENT_WRITE if self._unsent else 0
        except (BlockingIOError, InterruptedError):
            return selectors.EVENT_READ if self._unsent is None else selectors.EVENT_WRITE
        except OSError:  # the client went away
            return 0
        return selectors.EVENT_READ

    def _read(self) -> None:
        data = self.client.recv(HEAD_LIMIT)
        self._head += data
        ended = b"\r\n\r\n" in self._head or b"\n\n" in self._head
        if ended or not data or len(self._head) > HEAD_LIMIT:
            self._unsent = respond(self._head if ended else b"", self._look)


class StatusServer:
    """Serves until closed, in a thread of its own.

    Args:
        config: where.
        look: called in that thread.

    Raises:
        ConfigError: the port is taken, or there is no such address.
    """

    def __init__(self, config: Http, look: Callable[[], Overview]) -> None:
        self._look = look
        self._open: dict[socket.socket, _Connection] = {}  # the oldest first
        self._accepts_at = 0.0
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        try:
            self._listener = socket.create_server((config.host, config.port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"the status pages cannot be served on {config.host} port {config.port}: {error.strerror}",
                where="worker.toml: worker.http.port",
                hint="choose a free port, or 0 for any",
            ) from error
        self._listener.setblocking(False)  # noqa: FBT003 - positional-only
        self._wake, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="status pages", daemon=True)
        self._thread.start()
        log.info("status pages on http://%s:%d/status", config.host, self.port)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        self._waker.close()
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    break
            except Exception:
                log.exception("the status pages stumbled, they go on")
                time.sleep(PAUSE_S)
        for one in (*self._open, self._listener, self._wake):
            one.close()
        self._selector.close()

    def _turn(self) -> bool:
        """Wait for something and do it; False at the end."""
        for key, _ in self._selector.select(self._patience_s()):
            if key.fileobj is self._wake:
                return False
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj in self._open:  # or it has just made room for another one
                self._go_on(key.data)
        now = time.monotonic()
        for one in list(self._open.values()):
            if one.deadline > now:
                break
            self._drop(one)
        if self._accepts_at and now >= self._accepts_at:
            self._accepts_at = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)
        return True

    def _patience_s(self) -> float | None:
        dues = [one.deadline for one in list(self._open.values())[:1]]
        if self._accepts_at:
            dues.append(self._accepts_at)
        return max(min(dues) - time.monotonic(), 0.0) if dues else None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # out of descriptors or memory, or the client has gone already
                self._selector.unregister(self._listener)
                self._accepts_at = time.monotonic() + PAUSE_S
                return
            client.setblocking(False)  # noqa: FBT003 - positional-only
            if len(self._open) >= CONNECTIONS:
                self._drop(next(iter(self._open.values())))
            one = self._open[client] = _Connection(client, self._look)
            self._go_on(one)

    def _go_on(self, one: _Connection) -> None:
        wanted = one.go_on()
        if not wanted:
            self._drop(one)
            return
        with contextlib.suppress(KeyError):
            self._selector.modify(one.client, wanted, one)
            return
        self._selector.register(one.client, wanted, one)

    def _drop(self, one: _Connection) -> None:
        self._open.pop(one.client, None)
        with contextlib.suppress(KeyError):
            self._selector.unregister(one.client)
        one.client.close()
