"""Many records at once out of a stream, without consuming them: through a consumer that is made for one page."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from hexa_worker.core.message import Delivery
from hexa_worker.drivers.nats.ack_subjects import SEQUENCE, STORED, parts_of
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.errors import ApiError
from hexa_worker.drivers.nats.headers import Decoded
from hexa_worker.drivers.nats.protocol import Frame, status_of
from hexa_worker.drivers.nats.streams import NANOSECONDS
from hexa_worker.errors import DriverRejected, DriverUnavailable

LATEST_MS = 4_102_444_800_000
"""The year 2100: servers count nanoseconds and go round in 2262, and an id from outside may say any time."""
FORGOTTEN_S = 10
"""A page's consumer that nobody deletes, because this process died."""


async def page(  # noqa: PLR0913 - where, and what of it
    connection: NatsConnection, stream: str, channel: str, after: int, limit: int, since_ms: int
) -> list[Delivery] | None:
    """Up to `limit` records of `channel` with sequences above `after`, and without what was stored before `since_ms`.

    None where no such consumer can be made: of a stream that gives each record once, or without the rights.

    Raises:
        DriverUnavailable: the server is away.
    """
    config = {
        **_first(after, since_ms),
        "ack_policy": "none",
        "filter_subject": channel,
        "replay_policy": "instant",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": FORGOTTEN_S * NANOSECONDS,
    }
    try:
        made = await connection.api(f"CONSUMER.CREATE.{stream}", stream_name=stream, config=config)
    except (ApiError, DriverRejected):
        return None
    try:
        return await _Page(connection, stream, channel).read(made["name"], min(limit, int(made["num_pending"])))
    finally:
        connection.write(b"PUB $JS.API.CONSUMER.DELETE.%s.%s 0\r\n\r\n" % (stream.encode(), made["name"].encode()))


def _first(after: int, since_ms: int) -> dict[str, Any]:
    if after >= 0 or not since_ms:  # a page behind another one is late enough
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": max(after + 1, 1)}
    since = datetime.fromtimestamp(min(since_ms, LATEST_MS) / 1000, UTC)
    return {"deliver_policy": "by_start_time", "opt_start_time": f"{since:%FT%TZ}"}


class _Page:
    """Gathers the records of one pull."""

    def __init__(self, connection: NatsConnection, stream: str, channel: str) -> None:
        self._connection = connection
        self._stream = stream
        self._channel = channel
        self._found: list[Delivery] = []
        self._came = asyncio.Event()
        self._ended = False

    async def read(self, consumer: str, count: int) -> list[Delivery]:
        if not count:
            return []
        connection, inbox = self._connection, self._connection.subscribe(self._take)
        try:
            body = b'{"batch":%d,"no_wait":true}' % count
            head = f"PUB $JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer} {inbox.inbox}.0 {len(body)}\r\n"
            connection.write(head.encode() + body + b"\r\n")
            while not self._ended and len(self._found) < count:
                self._came.clear()
                try:
                    async with asyncio.timeout(connection.options.timeout_s):
                        await self._came.wait()
                except TimeoutError:
                    raise DriverUnavailable(f"nats: stream {self._stream!r} cannot be read: no answer") from None
        finally:
            connection.unsubscribe(inbox)
            connection.forget_sink(inbox)
        return self._found

    def _take(self, frames: list[Frame]) -> None:
        self._came.set()
        for _, reply, block, payload in frames:
            if not reply:
                self._ended = self._ended or status_of(block)[0] != 100  # noqa: PLR2004 - a heartbeat
                continue
            parts = parts_of(reply)
            decoded = Decoded(block or b"\r\n\r\n")
            self._found.append(
                Delivery(
                    channel=self._channel,
                    payload=payload,
                    key=decoded.key,
                    headers=decoded.headers,
                    timestamp_ms=decoded.timestamp_ms or int(parts[STORED]) // 1_000_000,
                    due_ms=decoded.due_ms,
                    source=self._stream,
                    offset=int(parts[SEQUENCE]),
                )
            )
