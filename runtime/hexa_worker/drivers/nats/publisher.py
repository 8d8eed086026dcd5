"""Publishing: confirmed, in order, in batches, the same message never stored twice."""

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from time import monotonic

import msgspec

from hexa_worker.backoff import Backoff
from hexa_worker.clock import Clock
from hexa_worker.config.nats import Nats
from hexa_worker.core.channels import dead_letter_channel
from hexa_worker.core.lineage import ATTEMPT, EVENT_ID, read_id
from hexa_worker.core.message import Message, header
from hexa_worker.drivers.base import confirmed
from hexa_worker.drivers.nats import headers, names
from hexa_worker.drivers.nats.connection import FORBIDDEN, NO_RESPONDERS, NatsConnection
from hexa_worker.drivers.nats.errors import ApiError
from hexa_worker.drivers.nats.protocol import Frame, status_of
from hexa_worker.drivers.nats.streams import StreamAway, Streams
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge

CHUNK = 1_000
CHUNK_BYTES = 1024 * 1024
HEADER_RESERVE = 64 * 1024
"""Of a server's limit this much is kept for headers: a dead letter must fit too."""
LONGEST_PAUSE_S = 0.5
"""Between attempts."""
SCHEDULE_FROM_MS = 1_000
"""Shorter delays are exact to milliseconds without the server's schedules (which tick every 250)."""


class _PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    error: dict[str, object] | None = None


_decode_ack = msgspec.json.Decoder(_PubAck).decode


class PublishRecord(msgspec.Struct, frozen=True):
    """A message, ready to be sent.

    Attributes:
        channel: whom an error names.
        subject: where it is published: the channel, or where it waits for it.
        block: headers.
        payload: payload.
    """

    channel: str
    subject: bytes
    block: bytes
    payload: bytes


class NatsPublisher:
    """Publishes through one connection.

    Args:
        connection: the way.
        streams: finds and makes the streams.
        options: the broker's table.
        clock: tells what is written now and what is late.
    """

    def __init__(self, connection: NatsConnection, streams: Streams, options: Nats, clock: Clock) -> None:
        self._connection = connection
        self._streams = streams
        self._options = options
        self._clock = clock
        self._entropy = secrets.token_hex(8)
        self._count = 0
        self.retry_bases: dict[str, str] = {}
        """Retry channels without their number (``base.retry``), by the stream that keeps them."""

    @property
    def max_payload(self) -> int:
        """Bytes of the largest payload that is taken."""
        return max(self._connection.max_payload - HEADER_RESERVE, self._connection.max_payload // 2)

    async def publish(
        self,
        messages: Sequence[Message],
        message_ids: Sequence[str] | None = None,
        *,
        limited: Sequence[bool] | None = None,
    ) -> Sequence[str | DriverError]:
        """Store messages; for each its id (``stream-sequence``), or why it is not confirmed.

        Args:
            messages: what to store.
            message_ids: what the server tells repetitions by; None: taken from the events' ids.
            limited: whether `max_payload` holds for each (what came from the server fits); None: for all.

        Raises:
            DriverUnavailable: none is confirmed.
        """
        answers: list[str | DriverError | None] = [None] * len(messages)
        records: dict[int, PublishRecord] = {}
        streams = await self._streams_of(dict.fromkeys(message.channel for message in messages))
        for place, message in enumerate(messages):
            stream = streams[message.channel]
            if isinstance(stream, DriverError):
                answers[place] = stream
                continue
            try:
                message_id = self._message_id(message) if message_ids is None else message_ids[place]
                records[place] = self._record(message, stream, message_id, limited=limited is None or limited[place])
            except DriverRejected as error:
                answers[place] = error
        try:
            await self._send_all(records, answers)
        except DriverUnavailable as error:
            answers = [error if answer is None else answer for answer in answers]
        return confirmed([answer for answer in answers if answer is not None])

    async def _streams_of(self, channels: Iterable[str]) -> dict[str, str | DriverError]:
        """The stream of each channel, or why nothing can be stored there. Raises DriverUnavailable."""
        streams: dict[str, str | DriverError] = {}
        for channel in channels:
            try:
                streams[channel] = await self._stream(channel)
            except (DriverRejected, StreamAway) as error:
                streams[channel] = error
        return streams

    async def _stream(self, channel: str) -> str:
        known = self._streams.known(channel)
        if known is not None:
            return known
        base, _, number = channel.rpartition(".")
        stream = self.retry_bases.get(base)
        if stream is not None and number.isdecimal():
            return stream
        return await self._streams.channel(channel, emitted=True)

    def _message_id(self, message: Message) -> str:
        """What the server tells repetitions of a message by.

        An event keeps its id when it is redriven, so a record with a history is told apart by its time too.
        """
        event_id = read_id(message.headers, EVENT_ID)
        if event_id is None:
            self._count += 1
            return f"{self._entropy}-{self._count:x}"
        if header(message.headers, ATTEMPT) is not None or message.due_ms:
            return f"{event_id}>{message.timestamp_ms or self._clock.now_ms()}>{names.token(message.channel)}"
        return f"{event_id}>{names.token(message.channel)}"

    def _record(self, message: Message, stream: str, message_id: str, *, limited: bool) -> PublishRecord:
        now_ms, payload = self._clock.now_ms(), message.payload
        if limited and len(payload) > self.max_payload:
            raise RecordTooLarge(
                f"payload of {len(payload)} bytes is over the limit of {self.max_payload} (the server's max_payload "
                f"less {HEADER_RESERVE} for headers)"
            )
        subject = message.channel
        extra: tuple[tuple[str, str], ...] = ()
        if message.due_ms - now_ms >= SCHEDULE_FROM_MS and self._streams.schedules(stream):
            subject = names.schedule_subject(message.channel, message.due_ms, message_id)
            extra = (("Nats-Schedule", _at(message.due_ms)), ("Nats-Schedule-Target", message.channel))
        block = headers.encode(message, message_id, now_ms, extra)
        if len(block) + len(payload) > self._connection.max_payload:
            raise RecordTooLarge(
                f"{len(payload)} bytes of payload and {len(block)} of headers are over the server's max_payload of "
                f"{self._connection.max_payload}"
            )
        return PublishRecord(message.channel, subject.encode(), block, payload)

    async def _send_all(self, records: dict[int, PublishRecord], answers: list[str | DriverError | None]) -> None:
        """Send until everything has an answer, through reconnections, for as long as the deadline allows."""
        deadline, backoff = monotonic() + self._options.timeout_s, Backoff(first_s=0.02, longest_s=LONGEST_PAUSE_S)
        remade = False
        while records:
            await self._connection.wait_up(max(deadline - monotonic(), 0.0))
            places = list(records)
            try:
                for chunk in _chunks(places, records):
                    await self._send(chunk, records, answers)
            except DriverUnavailable:
                pause_s = backoff.next_s()
                if monotonic() + pause_s >= deadline:
                    raise
                await asyncio.sleep(pause_s)
                continue
            if records:
                if remade:
                    raise DriverUnavailable("nats: no stream takes what is published, though it was just looked up")
                remade = True
                await self._look_up_again(records, answers)

    async def _look_up_again(self, records: dict[int, PublishRecord], answers: list[str | DriverError | None]) -> None:
        """Nobody took these: their streams have vanished, or never were."""
        self._streams.forget({record.channel for record in records.values()})
        for place, record in list(records.items()):
            try:
                await self._made_again(record.channel)
            except (DriverRejected, StreamAway) as error:
                answers[place] = error
                del records[place]

    async def _made_again(self, channel: str) -> None:
        """As `_stream`, of which nothing is believed: a failure's own stream is made as it was."""
        for retries in self.retry_bases:
            base = retries.removesuffix(".retry")
            if channel == dead_letter_channel(base):
                await self._streams.dead_letters(base)
            elif channel.rpartition(".")[0] == retries:
                await self._streams.retries(base)
        await self._stream(channel)

    async def _send(
        self, places: list[int], records: dict[int, PublishRecord], answers: list[str | DriverError | None]
    ) -> None:
        """Send one chunk; what has an answer leaves `records`."""
        waiting, replies = self._connection.expect([records[place].subject for place in places])
        parts: list[bytes] = []
        for place, reply in zip(places, replies, strict=True):
            record = records[place]
            length = len(record.block)
            parts.append(b"HPUB %s %s %d %d\r\n" % (record.subject, reply, length, length + len(record.payload)))
            parts += (record.block, record.payload, b"\r\n")
        self._connection.write(b"".join(parts))
        try:
            await self._connection.gather(waiting)
        finally:
            failures = [
                self._note(place, frame, records, answers)
                for place, frame in zip(places, waiting.frames, strict=True)
                if frame is not None
            ]
        for failure in failures:
            if failure is not None:
                raise failure

    def _note(
        self, place: int, frame: Frame, records: dict[int, PublishRecord], answers: list[str | DriverError | None]
    ) -> DriverUnavailable | None:
        """Write down an answer; or return why it is none, and the record has to be sent again."""
        code = status_of(frame[2])[0]
        if code == NO_RESPONDERS:
            return None  # stays in `records`
        record = records[place]
        if code == FORBIDDEN:
            answers[place] = DriverRejected(f"nats: this login may not publish to {record.channel!r}")
            del records[place]
            return None
        try:
            ack = _decode_ack(frame[3])
        except msgspec.MsgspecError:
            answers[place] = DriverRejected(f"something else than a stream answers on {record.channel!r}")
        else:
            if ack.error is not None:
                failure = ApiError(ack.error).as_driver_error(f"publish to {record.channel!r}")
                if isinstance(failure, DriverUnavailable):
                    return failure
                answers[place] = failure
            else:
                answers[place] = f"{ack.stream}-{ack.seq}"
        del records[place]
        return None


def _chunks(places: list[int], records: dict[int, PublishRecord]) -> list[list[int]]:
    chunks: list[list[int]] = [[]]
    size = 0
    for place in places:
        record_size = len(records[place].block) + len(records[place].payload)
        if chunks[-1] and (len(chunks[-1]) >= CHUNK or size + record_size > CHUNK_BYTES):
            chunks.append([])
            size = 0
        chunks[-1].append(place)
        size += record_size
    return chunks


def _at(due_ms: int) -> str:
    """A time as a schedule says it."""
    from datetime import UTC, datetime  # noqa: PLC0415 - only where there are retries

    seconds, milliseconds = divmod(due_ms, 1000)
    return f"@at {datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"
