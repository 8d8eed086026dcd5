"""Leases: which process reads a channel whose order must hold.

A lease is the last message on a subject of its own; it is written with the sequence of the one before as a
condition, so of two writers one fails. Whoever sees it unchanged for its whole length may take it: that needs no
clocks that agree. How long it stood before is asked of the server, where it can tell: processes that are restarted
again and again would otherwise never have waited long enough.
"""

from datetime import datetime

import msgspec

from hexa_worker.drivers.nats import names
from hexa_worker.drivers.nats.asking import REFUSED
from hexa_worker.drivers.nats.connection import NO_RESPONDERS, Connection
from hexa_worker.drivers.nats.failures import NO_MESSAGE, ApiError
from hexa_worker.drivers.nats.handover import NOTHING, Done, Waiting
from hexa_worker.drivers.nats.protocol import status_of
from hexa_worker.errors import DriverRejected, DriverUnavailable

WRONG_LAST_SEQUENCE = 10071


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease says.

    Attributes:
        owner: whose it is; empty: nobody's.
        term: counts owners; the consumer of each term has a name of its own, so that nobody can settle for another.
        floor: everything up to this sequence is settled, as far as was known when this was written.
        born: when the stream was made: sequences of one that was made anew mean something else.
        done: what is settled beyond the floor, as the last orderly stop left it.
        waiting: what waits for a retry in its place, by sequence.
    """

    owner: str
    term: int
    floor: int
    born: str = ""
    done: Done = NOTHING
    waiting: dict[int, Waiting] = {}


class _Answer(msgspec.Struct):
    seq: int = 0
    error: dict[str, object] | None = None


class LeaseStore:
    """The lease of one consumer.

    Args:
        connection: the way to the server.
        stream: the stream of the consumer.
        durable: its name, without a term.
    """

    def __init__(self, connection: Connection, stream: str, durable: str) -> None:
        self._connection = connection
        self._subject = f"{names.LEASES_PREFIX}.{stream}.{durable}"

    async def read(self) -> tuple[int, Lease | None]:
        """Its sequence and what it says; (0, None) before the first. Raises DriverUnavailable, DriverRejected."""
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{names.LEASES_STREAM}", last_by_subj=self._subject)
        except ApiError as error:
            if error.number == NO_MESSAGE:
                return 0, None
            raise error.as_driver_error("read a lease") from error
        found = answer["message"]
        return int(found["seq"]), _lease(str(found.get("data", "")))

    async def idle_s(self) -> float:
        """For how long it was not written, by the server's clock; 0 where that is not told (servers before 2.10).

        Raises DriverUnavailable, DriverRejected.
        """
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{names.LEASES_STREAM}", last_by_subj=self._subject)
            info = await self._connection.api(f"STREAM.INFO.{names.LEASES_STREAM}")
        except ApiError as error:
            if error.number == NO_MESSAGE:
                return 0.0
            raise error.as_driver_error("read a lease") from error
        return _seconds_between(str(answer["message"].get("time", "")), str(info.get("ts", "")))

    async def write(self, lease: Lease, after: int) -> int | None:
        """Replace the lease with sequence `after`; its new sequence, or None when it was replaced by others.

        Raises:
            DriverUnavailable: it may or may not have been written.
            DriverRejected: the server refuses it.
        """
        payload = msgspec.json.encode(lease)
        block = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % after
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


def _lease(data: str) -> Lease | None:
    """A lease out of base64; None for what is none."""
    from base64 import b64decode  # noqa: PLC0415 - for ordered subscriptions only

    try:
        return msgspec.json.decode(b64decode(data), type=Lease)
    except (ValueError, msgspec.MsgspecError):
        return None
