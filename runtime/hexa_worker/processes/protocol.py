"""What a parent and its child say to each other.

First the parent tells the arguments through their socket, not on the command line: a child may be started before
anybody has read worker.toml. Then both speak in frames: the child in `Frame`s, the parent in `Order`s. Besides there
are signals to the child, and its exit code.
"""

import select
import signal
import socket
import struct
import threading
import time
from typing import Final, Generic, TypeVar

import msgspec

from hexa_worker.core.controls import AS_CONFIGURED, Controls
from hexa_worker.core.crash_attribution import InFlightId
from hexa_worker.telemetry.report import Report

_LENGTH: Final = struct.Struct("<I")
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
MAX_BEAT_S: Final = 1.0
MAX_DUMPED: Final = 500
MAX_FRAME: Final = 16 * 1024 * 1024
LAST_WORDS_S: Final = 1.0
T = TypeVar("T")


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told before it starts.

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
        only: the subscriptions that run; empty: all.
        controls: what an operator wants; changes follow as a `ControlsOrder`.
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
    only: tuple[str, ...] = ()
    controls: Controls = AS_CONFIGURED

    @property
    def beat_s(self) -> float:
        return min(MAX_BEAT_S, self.watchdog_s / 4)


def pack(arguments: Arguments) -> bytes:
    """The bytes that `receive` understands."""
    return _framed(msgspec.msgpack.encode(arguments))


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


def _framed(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


class Heartbeat(msgspec.Struct, frozen=True, tag="beat"):
    """The event loop runs."""


class StatusFrame(msgspec.Struct, frozen=True, tag="report"):
    """A report."""

    report: Report


class Misconfigured(msgspec.Struct, frozen=True, tag="config"):
    """A `hexa_worker.errors.ConfigError`: the process ends with exit code 2."""

    message: str
    where: str
    hint: str


class SettledFrame(msgspec.Struct, frozen=True, tag="settled"):
    """Suspects that were settled."""

    hands: list[InFlightId]


class LaneDump(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery that a lane runs.

    Attributes:
        action: the subscription.
        lane: the lane's number.
        event_id: the event.
        message_id: the delivery, by the broker.
        channel: where it was read from.
        key: its key, as text.
        attempt: how often it has failed before.
        state: ``running``, or ``waiting`` to run alone because it was in flight at a crash.
        seconds: for how long.
        stack: where its handler is: file, line and function, the innermost last.
    """

    action: str
    lane: int
    event_id: str
    message_id: str
    channel: str
    key: str | None
    attempt: int
    state: str
    seconds: float
    stack: tuple[str, ...]


class DumpFrame(msgspec.Struct, frozen=True, tag="dump"):
    """What the lanes of the process do, and where its event loop is.

    Attributes:
        number: of the order.
        lanes: those that are busy, `MAX_DUMPED` at most.
        loop: where the loop's thread is: file, line and function, the innermost last.
    """

    number: int
    lanes: tuple[LaneDump, ...]
    loop: tuple[str, ...]


Frame = Heartbeat | StatusFrame | Misconfigured | SettledFrame | DumpFrame


class WhoBlocks(msgspec.Struct, frozen=True, tag="who"):
    """Which delivery blocks the loop? It is accused in the journal."""


class ControlsOrder(msgspec.Struct, frozen=True, tag="controls"):
    """Do this from now on; the next report has its revision."""

    controls: Controls


class DumpOrder(msgspec.Struct, frozen=True, tag="dump"):
    """Answer with a `DumpFrame`, whatever the loop does."""

    number: int


Order = WhoBlocks | ControlsOrder | DumpOrder

FRAMES: Final[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)
ORDERS: Final[msgspec.msgpack.Decoder[Order]] = msgspec.msgpack.Decoder(Order)
_encoder = msgspec.msgpack.Encoder()


class WireError(Exception):
    """What comes from the other end is no frame."""


class Link:
    """One end, that which speaks. From any thread.

    Args:
        connection: the socket.

    Attributes:
        connection: the same.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection  # blocking, for the thread that waits for its end; hence MSG_DONTWAIT
        self._unsent = b""
        self._lock = threading.RLock()

    def send(self, frame: Frame | Order) -> bool:
        """Send a frame without waiting; False: it was dropped because the other end does not read."""
        with self._lock:
            if not self.push():
                return False
            self._unsent = _framed(_encoder.encode(frame))
            self.push()
            return True

    def send_final(self, frame: Frame) -> None:
        """Send a frame before the process ends, waiting a little for the parent."""
        with self._lock:
            self._unsent += _framed(_encoder.encode(frame))
        give_up = time.monotonic() + LAST_WORDS_S
        while not self.push() and time.monotonic() < give_up:
            select.select([], [self.connection], [], LAST_WORDS_S)

    def push(self) -> bool:
        """Write what is unsent, without waiting; whether all of it is out. A dead process is noticed elsewhere."""
        with self._lock:
            if not self._unsent:
                return True
            try:
                sent = self.connection.send(self._unsent, socket.MSG_DONTWAIT)
            except OSError:
                sent = 0
            self._unsent = self._unsent[sent:]
            return not self._unsent


class Inbox(Generic[T]):
    """The end that listens: takes bytes, gives frames.

    Args:
        decoder: of the frames that come: `FRAMES` or `ORDERS`.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """The frames that are complete with `data`.

        Raises:
            WireError: the bytes are no frames.
        """
        buffer = self._buffer
        buffer += data
        frames: list[T] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > MAX_FRAME:
                raise WireError(f"a frame of {length} bytes")
            end = at + _LENGTH.size + length
            if end > len(buffer):
                break
            try:
                frames.append(self._decoder.decode(memoryview(buffer)[at + _LENGTH.size : end]))
            except msgspec.MsgspecError as error:
                raise WireError(str(error)) from error
            at = end
        del buffer[:at]
        return frames
