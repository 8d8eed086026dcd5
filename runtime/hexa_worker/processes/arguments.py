"""What the parent tells a child through its socket, and what a child's exit code tells the parent.

Not on the command line: a child may be started before anybody has read worker.toml.
"""

import signal
import socket
import struct
from typing import Final

import msgspec

DESCRIPTOR: Final = 3
"""The child's end of the socket to its parent."""
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 2
EXIT_STOPPED: Final = 3
"""It has drained, because it was told to stop: by its parent or by somebody else."""
EXIT_STUCK: Final = 86
"""A handler does not end; the journal names it."""
EXIT_BROKEN: Final = 87
"""Its driver came to an end; another process may do better."""
STOP_SIGNAL: Final = signal.SIGTERM
"""Tells a child to drain, however often it comes: whoever stops the parent may send it to the children, too."""
CANCEL_SIGNAL: Final = getattr(signal, "SIGRTMIN", signal.SIGUSR1)
"""Tells a child to cancel: one that nobody sends by mistake."""
STACK_SIGNAL: Final = signal.SIGUSR2
"""Makes a child write its stacks to a file, also when its loop is blocked in C."""
WHO_BLOCKS: Final = b"?"
"""Asks a child, through its socket, which delivery blocks its loop."""
MAX_BEAT_S: Final = 1.0


_LENGTH: Final = struct.Struct("<I")


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """All that a child is ever told.

    Attributes:
        slot: its number.
        parent: process id of the parent.
        folder: what it was started in; links in it are followed by each process.
        config_path: worker.toml; as `folder`.
        state_dir: see `hexa_worker.processes.state_files.StateFiles`.
        name: the worker's name, see there.
        watchdog_s: how long the loop may be silent.
        until_idle: end by itself when nothing is left to do.
        backend: instead of the configured one.
        preflight: look at the broker once it is up, and warn of what will be lost: one process of a worker does.
        proven: a process with this configuration was ready before; a broker that refuses it now is waited for.
    """

    slot: int
    parent: int
    folder: str
    config_path: str
    state_dir: str
    name: str
    watchdog_s: float
    until_idle: bool = False
    backend: str | None = None
    preflight: bool = False
    proven: bool = False

    @property
    def beat_s(self) -> float:
        """Seconds between two beats."""
        return min(MAX_BEAT_S, self.watchdog_s / 4)


def pack(arguments: Arguments) -> bytes:
    """The bytes that `receive` understands."""
    body = msgspec.msgpack.encode(arguments)
    return _LENGTH.pack(len(body)) + body


def receive(connection: socket.socket) -> Arguments:
    """Wait for the arguments.

    Raises:
        EOFError: the parent has gone without a word.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return msgspec.msgpack.decode(_exactly(connection, length), type=Arguments)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
