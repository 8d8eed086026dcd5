"""Where the control socket is, however long its path: a socket's address has room for about 100 bytes."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOM: Final = 104
"""Bytes of a path that every system takes."""


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for `path` that fits into an address: through its folder's descriptor where it is too long itself.

    Raises:
        OSError: its folder cannot be opened, or nothing makes it fit.
    """
    if len(os.fsencode(path)) <= ROOM:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"
        if len(os.fsencode(short)) > ROOM or not os.path.exists(f"/proc/self/fd/{folder}"):  # noqa: PTH110 - a link of the kernel's
            raise OSError(f"the path of the control socket is too long: {path}; use a shorter [worker] name")
        yield short
    finally:
        os.close(folder)


def listen(path: Path) -> socket.socket:
    """A socket that listens there, for this user alone. What a dead worker has left is replaced.

    The caller has the worker's lock, so nobody else listens.

    Raises:
        OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # or it would be open to others for a moment
    try:
        with reachable(path) as short:
            listener.bind(short)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.setblocking(False)  # noqa: FBT003 - positional-only
    return listener
