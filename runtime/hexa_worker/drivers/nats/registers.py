"""Registers: what has to be known of a subscription beside its durables, in a stream of the worker's own.

A register is the last message on a subject of its own. It can be written on the condition that nobody wrote it since
it was read, so of two writers one fails.
"""

import base64
from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from hexa_worker.drivers.nats import names
from hexa_worker.drivers.nats.connection import NO_RESPONDERS, NatsConnection
from hexa_worker.drivers.nats.errors import NO_MESSAGE, STREAM_NOT_FOUND, ApiError
from hexa_worker.drivers.nats.protocol import status_of
from hexa_worker.drivers.nats.requests import REFUSED
from hexa_worker.errors import DriverRejected, DriverUnavailable

WRONG_LAST_SEQUENCE = 10071
T = TypeVar("T", bound=msgspec.Struct)


class _NoRegisters(DriverRejected):
    """Their stream does not exist."""


class _Answer(msgspec.Struct):
    seq: int = 0
    error: dict[str, object] | None = None


class Register(Generic[T]):
    """One register.

    Args:
        connection: the way to the server.
        name: its subject, below that of all registers.
        kind: what it holds.
    """

    def __init__(self, connection: NatsConnection, name: str, kind: type[T]) -> None:
        self._connection = connection
        self._subject = f"{names.LEASES_PREFIX}.{name}"
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(kind).decode

    async def read(self) -> tuple[int, T | None]:
        """Its sequence and what it says; (0, None) before the first. Raises DriverUnavailable, DriverRejected."""
        sequence, data, _ = await self._last()
        try:
            return sequence, self._decode(data) if sequence else None
        except msgspec.MsgspecError:
            return sequence, None

    async def look(self) -> T | None:
        """What it says; None before the first, and where no register ever was. Raises as `read`."""
        try:
            return (await self.read())[1]
        except _NoRegisters:
            return None

    async def written_at(self) -> str | None:
        """When it was written, by the server's clock; None before the first. Raises as `read`."""
        sequence, _, at = await self._last()
        return at if sequence else None

    async def idle_s(self) -> float:
        """For how long it was not written, by the server's clock; 0 where that is not told (servers before 2.10).

        Raises DriverUnavailable, DriverRejected.
        """
        at = await self.written_at()
        if at is None:
            return 0.0
        try:
            info = await self._connection.api(f"STREAM.INFO.{names.LEASES_STREAM}")
        except ApiError as error:
            raise error.as_driver_error("look at the leases") from error
        return _seconds_between(at, str(info.get("ts", "")))

    async def _last(self) -> tuple[int, bytes, str]:
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{names.LEASES_STREAM}", last_by_subj=self._subject)
        except ApiError as error:
            if error.number == NO_MESSAGE:
                return 0, b"", ""
            if error.number == STREAM_NOT_FOUND:
                raise _NoRegisters(f"read a lease: {error}") from error
            raise error.as_driver_error("read a lease") from error
        found = answer["message"]
        return int(found["seq"]), base64.b64decode(found.get("data", "")), str(found.get("time", ""))

    async def write(self, value: T, after: int | None) -> int | None:
        """Replace what was written with sequence `after` (None: whatever is there).

        Returns:
            Its new sequence, or None when it was replaced by others.

        Raises:
            DriverUnavailable: it may or may not have been written.
            DriverRejected: the server refuses it.
        """
        payload = msgspec.json.encode(value)
        expected = b"" if after is None else b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % after
        block = b"NATS/1.0\r\n%s\r\n" % expected
        await self._connection.wait_up(self._connection.options.timeout_s)
        answers, replies = self._connection.expect([self._subject.encode()])
        head = b"HPUB %s %s %d %d\r\n" % (self._subject.encode(), replies[0], len(block), len(block) + len(payload))
        self._connection.write(b"".join((head, block, payload, b"\r\n")))
        await self._connection.gather(answers)
        frame = answers.frames[0]
        if frame is REFUSED:
            raise DriverRejected(f"nats: this login may not publish to {self._subject!r}")
        if frame is None or status_of(frame[2])[0] == NO_RESPONDERS:
            raise DriverUnavailable(f"nats: the stream {names.LEASES_STREAM!r} does not answer")
        answer = msgspec.json.decode(frame[3], type=_Answer)
        if answer.error is None:
            return answer.seq
        failure = ApiError(answer.error)
        if failure.number == WRONG_LAST_SEQUENCE:
            return None
        raise failure.as_driver_error("write a lease")


def _seconds_between(earlier: str, later: str) -> float:
    """Of two of the server's times; never negative, and 0 if one of them is none."""
    try:
        return max((datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
