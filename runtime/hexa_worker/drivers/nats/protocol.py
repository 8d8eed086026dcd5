"""The NATS protocol on the hot path: frames of our own subscriptions go to their sinks, a read at a time.

nats-py parses with a regular expression per line and makes a `Msg` per message; that alone costs more than the
rest of the way to a handler. Frames of other subscriptions, and everything else, still go to nats-py.
"""

import json
import logging
from asyncio import Future
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from hexa_worker.drivers.nats.client_internals import error_came, info_came, ping_came

Frame = tuple[bytes, bytes, bytes | None, bytes]
"""Subject, reply, header block (None: no headers), payload."""
Sink = Callable[[list[Frame]], None]

LONGEST_LINE = 64 * 1024
log = logging.getLogger("hexa_worker.drivers.nats")


class FrameParser(Parser):
    """A parser that hands the frames of registered subscriptions over in batches.

    Attributes:
        sinks: by subscription id, as it stands on the wire.
        pongs: resolved one by one, in order, by the server's answers to our pings.
        heard_at: when the server last said anything (monotonic).
        refused: called with what the server says that it refuses.
        informed: called with what it says of itself and its cluster, after its greeting.
    """

    def __init__(self, client: Any) -> None:
        self.sinks: dict[bytes, Sink] = {}
        self.pongs: deque[Future[None]] = deque()
        self.heard_at = monotonic()
        self.refused: Callable[[str], None] = _ignore
        self.informed: Callable[[dict[str, Any]], None] = _ignore
        super().__init__(client)

    def reset(self) -> None:
        """Forget what was read so far."""
        super().reset()
        self._rest = b""
        self._chunks: list[bytes] = []
        self._missing = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read from the socket."""
        self.heard_at = monotonic()
        if self._missing > 0:
            self._chunks.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join([self._rest, *self._chunks])
            self._rest, self._chunks = b"", []
        elif self._rest:
            data = self._rest + data
        await self._parse(data)

    async def _parse(self, data: bytes) -> None:
        position, end = 0, len(data)
        batches: dict[bytes, list[Frame]] = {}
        self._missing = 0
        try:
            while position < end:
                line_end = data.find(b"\r\n", position)
                if line_end < 0:
                    if end - position > LONGEST_LINE:
                        raise ProtocolError
                    break
                first = data[position]
                if first == 72 or first == 77:  # noqa: PLR1714, PLR2004 - H(MSG) or M(SG); the fastest spelling
                    arguments = data[position:line_end].split()
                    if arguments[0] != b"MSG" and arguments[0] != b"HMSG":
                        raise ProtocolError
                    body = line_end + 2
                    stop = body + int(arguments[-1])
                    if stop + 2 > end:
                        self._missing = stop + 2 - end
                        break
                    position = stop + 2
                    frame = _frame(arguments, data, body, stop, with_headers=first == 72)  # noqa: PLR2004
                    batch = batches.get(arguments[2])
                    if batch is None:
                        batch = batches[arguments[2]] = []
                    batch.append(frame)
                else:
                    await self._control(data[position:line_end])
                    position = line_end + 2
        except (ValueError, IndexError) as error:
            raise ProtocolError from error
        finally:
            self._rest = data[position:] if position < end else b""
            self._hand_over(batches)

    def _hand_over(self, batches: dict[bytes, list[Frame]]) -> None:
        for sid, frames in batches.items():
            sink = self.sinks.get(sid)
            if sink is None:
                continue
            try:
                sink(frames)
            except Exception:  # one subscription's trouble must not end the connection of all
                log.exception("frames that could not be handled")

    async def _control(self, line: bytes) -> None:
        if line == b"PING":
            await ping_came(self.nc)
        elif line == b"PONG":
            if self.pongs:
                pong = self.pongs.popleft()
                if not pong.done():
                    pong.set_result(None)
        elif line.startswith(b"INFO "):
            info = json.loads(line[5:])
            await info_came(self.nc, info)
            self.informed(info)
        elif line.startswith(b"-ERR"):
            text = line[4:].strip().decode(errors="replace")
            self.refused(text)
            await error_came(self.nc, text.lower())
        elif not line.startswith(b"+OK"):
            raise ProtocolError


def _ignore(_said: object) -> None:
    """Nobody wants to know."""


def _frame(arguments: list[bytes], data: bytes, body: int, stop: int, *, with_headers: bool) -> Frame:
    if with_headers:
        split = body + int(arguments[-2])
        reply = arguments[3] if len(arguments) == 6 else b""  # noqa: PLR2004 - HMSG subject sid [reply] header total
        return arguments[1], reply, data[body:split], data[split:stop]
    reply = arguments[3] if len(arguments) == 5 else b""  # noqa: PLR2004 - MSG subject sid [reply] total
    return arguments[1], reply, None, data[body:stop]


def status_of(header: bytes | None) -> tuple[int, str]:
    """The status line of a frame that the server made itself: its code and text; (0, "") for others."""
    if header is None or not header.startswith(b"NATS/1.0 "):
        return 0, ""
    line = header[9 : header.index(b"\r\n")].decode(errors="replace")
    code, _, text = line.partition(" ")
    return (int(code), text) if code.isdecimal() else (0, "")


class SubjectSubscription:
    """A sink and where the server sends what it is for.

    Attributes:
        inbox: prefix of its subjects; it gets everything below.
    """

    __slots__ = ("inbox", "sid", "sink")

    def __init__(self, inbox: str, sid: int, sink: Sink) -> None:
        self.inbox = inbox
        self.sid = b"%d" % sid
        self.sink = sink

    @property
    def command(self) -> bytes:
        """What subscribes it."""
        return b"SUB %s.* %s\r\n" % (self.inbox.encode(), self.sid)
