"""Loopback ports that stay ours, also while the broker behind them is dead.

Ports come from below the ephemeral range: a client that reconnects to a dead broker's port inside that range can
be given the very port as its own (and even connect to itself), and the broker could then not start again.
A port is reserved by an exclusive lock on a file, which the broker process inherits: it is held as long as either
the lab or the broker lives, and several runs side by side never choose the same one.
"""

import fcntl
import os
import random
import socket
import tempfile
import time
from pathlib import Path

from tests.lab.errors import BrokerError

_LOWEST, _HIGHEST = 12_000, 32_000


class Port:
    """One reserved port of 127.0.0.1."""

    def __init__(self, number: int, lock: int) -> None:
        self.number = number
        self.lock = lock
        """File descriptor that holds the reservation, to be inherited by the broker."""

    def release(self) -> None:
        """Give the reservation up, as far as this process holds it."""
        os.close(self.lock)


def reserve_port(number: int | None = None, *, patience_s: float = 10.0) -> Port:
    """Reserve a free port.

    Args:
        number: this very port (a broker restarted on its data keeps its address); None: any.
        patience_s: how long to wait for `number`, whose last owner may be just dying.

    Raises:
        BrokerError: `number` is taken, or no port is free.
    """
    deadline = time.monotonic() + patience_s
    while number is not None:
        if port := _try_reserve(number):
            return port
        if time.monotonic() > deadline:
            message = f"port {number} is taken"
            raise BrokerError(message)
        time.sleep(0.05)
    for candidate in random.sample(range(_LOWEST, _HIGHEST), 500):
        if port := _try_reserve(candidate):
            return port
    message = f"no free port between {_LOWEST} and {_HIGHEST}"
    raise BrokerError(message)


def wait_free(number: int, patience_s: float = 10.0) -> None:
    """Return when nobody listens on the port any more (a process just killed may hold it for a moment)."""
    deadline = time.monotonic() + patience_s
    while not _free(number):
        if time.monotonic() > deadline:
            message = f"port {number} is taken"
            raise BrokerError(message)
        time.sleep(0.02)


def _try_reserve(number: int) -> Port | None:
    directory = Path(tempfile.gettempdir()) / f"hexa-worker-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(directory / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    if _free(number):
        return Port(number, lock)
    os.close(lock)
    return None


def _free(number: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True
