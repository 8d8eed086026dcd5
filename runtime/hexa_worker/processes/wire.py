"""What a child says to its parent, as frames on a stream socket: a length, then msgpack.

The parent never answers; that it is there is all a child reads of it.
"""

import select
import socket
import struct
import time
from typing import Final

import msgspec

from hexa_worker.core.crash_attribution import InFlightId
from hexa_worker.telemetry.report import Report

_LENGTH = struct.Struct("<I")
MAX_FRAME: Final = 16 * 1024 * 1024
LAST_WORDS_S: Final = 1.0


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


Frame = Heartbeat | StatusFrame | Misconfigured | SettledFrame

_decoder = msgspec.msgpack.Decoder(Frame)
_encoder = msgspec.msgpack.Encoder()


class WireError(Exception):
    """What comes from a child is no frame."""


class Link:
    """The child's end. All methods are called from one thread.

    Args:
        connection: the socket that was inherited.

    Attributes:
        connection: the same.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection  # blocking, for the thread that waits for its end; hence MSG_DONTWAIT
        self._unsent = b""

    def send(self, frame: Frame) -> bool:
        """Send a frame without waiting; False: it was dropped because the parent does not read."""
        if self._unsent and not self._push():
            return False
        body = _encoder.encode(frame)
        self._unsent = _LENGTH.pack(len(body)) + body
        self._push()
        return True

    def send_final(self, frame: Frame) -> None:
        """Send a frame before the process ends, waiting a little for the parent."""
        body = _encoder.encode(frame)
        self._unsent += _LENGTH.pack(len(body)) + body
        give_up = time.monotonic() + LAST_WORDS_S
        while not self._push() and time.monotonic() < give_up:
            select.select([], [self.connection], [], LAST_WORDS_S)

    def _push(self) -> bool:
        """Write what is unsent; whether all of it went out. A dead parent is noticed elsewhere."""
        try:
            sent = self.connection.send(self._unsent, socket.MSG_DONTWAIT)
        except OSError:
            sent = 0
        self._unsent = self._unsent[sent:]
        return not self._unsent


class Inbox:
    """The parent's end: takes bytes, gives frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with `data`.

        Raises:
            WireError: the bytes are no frames.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > MAX_FRAME:
                raise WireError(f"a frame of {length} bytes")
            end = at + _LENGTH.size + length
            if end > len(buffer):
                break
            try:
                frames.append(_decoder.decode(memoryview(buffer)[at + _LENGTH.size : end]))
            except msgspec.MsgspecError as error:
                raise WireError(str(error)) from error
            at = end
        del buffer[:at]
        return frames
