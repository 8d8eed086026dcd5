"""The status pages: ``/live /ready /status /metrics`` for all processes together, on loopback unless told otherwise.

The least of HTTP that probes and scrapers need: one GET or HEAD per connection. The standard library's server
would triple the memory of what this is.
"""

import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec

from hexa_worker.config.model import Http
from hexa_worker.errors import ConfigError
from hexa_worker.processes.metrics import CONTENT_TYPE, exposition
from hexa_worker.processes.overview import Overview

TIMEOUT_S: Final = 5.0
LINE_LIMIT: Final = 8 * 1024
HEADERS_LIMIT: Final = 100
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
    """What a page shows."""
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


class _Handler(socketserver.StreamRequestHandler):
    timeout = TIMEOUT_S
    server: "StatusServer"

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client went away or is too slow
            self._reply(*self._read())

    def _read(self) -> tuple[bool, Answer]:
        """Read the request; whether the body is wanted, and the answer."""
        words = self.rfile.readline(LINE_LIMIT).decode("latin-1").split()
        for _ in range(HEADERS_LIMIT):
            if not self.rfile.readline(LINE_LIMIT).strip():
                break
        else:
            return True, (400, _TEXT, b"too many headers\n")
        if len(words) != 3:  # noqa: PLR2004 - method, path, version
            return True, (400, _TEXT, b"this is not HTTP\n")
        method, path, _ = words
        if method not in ("GET", "HEAD"):
            return True, (405, _TEXT, b"GET only\n")
        return method == "GET", answer(path, self.server.look)

    def _reply(self, with_body: bool, reply: Answer) -> None:  # noqa: FBT001 - private
        status, content_type, body = reply
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        self.wfile.write(head.encode() + (body if with_body else b""))


class StatusServer(socketserver.ThreadingTCPServer):
    """Serves until closed, in threads of its own.

    Args:
        config: where.
        look: called in those threads.

    Raises:
        ConfigError: the port is taken, or there is no such address.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, config: Http, look: Callable[[], Overview]) -> None:
        self.look = look
        self.address_family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        try:
            super().__init__((config.host, config.port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"the status pages cannot be served on {config.host} port {config.port}: {error.strerror}",
                where="worker.toml: worker.http.port",
                hint="choose a free port, or 0 for any",
            ) from error
        threading.Thread(target=self.serve_forever, name="status pages", daemon=True).start()
        log.info("status pages on http://%s:%d/status", config.host, self.port)

    @property
    def port(self) -> int:
        """The port it serves on."""
        return int(self.server_address[1])

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Log a defect; the default prints a traceback to stderr."""
        log.exception("a status page failed")  # noqa: LOG004 - called while an exception is handled

    def close(self) -> None:
        """Serve no more."""
        self.shutdown()
        self.server_close()
