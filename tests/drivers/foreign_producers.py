"""What listens where a broker should, and what an error may say of it; for the tests of TLS and logins."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

CANARY = "canary-9c41e7"
"""A secret that must not be seen."""


def clear_line(error: Exception) -> str:
    """What an error says: one line, without the secret."""
    text = str(error)
    assert "\n" not in text
    assert CANARY not in text
    return text


def nobody() -> str:
    """An address where nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def greeting() -> Iterator[str]:
    """The address of somebody who speaks HTTP to whoever comes, and no more."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def greet() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with closing(peer):
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=greet, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
