"""Looking at channels without consuming them, and deleting dead letters."""

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from hexa_worker.core.channels import parse, retry_prefix
from hexa_worker.core.message import Delivery
from hexa_worker.drivers.nats import names
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.errors import NO_MESSAGE, STREAM_NOT_FOUND, ApiError
from hexa_worker.drivers.nats.headers import Decoded
from hexa_worker.drivers.nats.paging import page
from hexa_worker.drivers.nats.streams import Streams, streams_of


async def browse(  # noqa: PLR0913 - the seam's, and whom to ask
    connection: NatsConnection, streams: Streams, channel: str, after: int, limit: int, since_ms: int
) -> list[Delivery]:
    """Up to `limit` records of `channel` with sequences above `after`; retries that wait for their time too."""
    names.check_channel(channel)
    stream = await streams.find(channel)
    if stream is None:
        return []
    if not _is_retry(channel):
        records = await page(connection, stream, channel, after, limit, since_ms)
        if records is not None:
            return records
    found: list[Delivery] = []
    waiting = await _next(connection, stream, f"{channel}.at.>", after + 1)
    plain = await _next(connection, stream, channel, after + 1)
    while len(found) < limit and (plain or waiting):
        if plain is not None and (waiting is None or plain["seq"] < waiting["seq"]):
            found.append(_delivery(stream, channel, plain))
            plain = await _next(connection, stream, channel, plain["seq"] + 1)
        elif waiting is not None:
            found.append(_delivery(stream, channel, waiting))
            waiting = await _next(connection, stream, f"{channel}.at.>", waiting["seq"] + 1)
    return found


async def remove(connection: NatsConnection, streams: Streams, channel: str, offsets: Sequence[int]) -> int:
    """Delete records; returns how many were there."""
    stream = await streams.find(channel)
    if stream is None:
        return 0
    removed = 0
    for offset in offsets:
        if not await _holds(connection, stream, channel, offset):
            continue  # it is not there, or belongs to another channel of the stream
        try:
            await connection.api(f"STREAM.MSG.DELETE.{stream}", seq=offset)
        except ApiError as error:
            if error.number not in {NO_MESSAGE, 10043, 10057}:
                raise error.as_driver_error(f"delete {stream}-{offset}") from error
        else:
            removed += 1
    return removed


async def _holds(connection: NatsConnection, stream: str, channel: str, offset: int) -> bool:
    for subject in (channel, f"{channel}.at.>"):
        found = await _next(connection, stream, subject, offset)
        if found is not None and found["seq"] == offset:
            return True
    return False


async def channels(connection: NatsConnection, *, ladders: bool = True) -> list[str]:
    """Every channel that is kept: subjects of streams, and those that wildcards let in.

    Args:
        connection: asks.
        ladders: retry channels and dead letters too.
    """
    found: set[str] = set()
    async for one in streams_of(connection):
        if ladders or not one["config"]["name"].endswith((f"{names.MARK}retry", f"{names.MARK}dlq")):
            found |= await _channels_of(connection, one["config"])
    return sorted(found)


async def _channels_of(connection: NatsConnection, config: dict[str, Any]) -> set[str]:
    subjects: list[str] = config.get("subjects") or []
    if config["name"] == names.LEASES_STREAM or any(subject.startswith("$") for subject in subjects):
        return set()
    found = {subject for subject in subjects if "*" not in subject and ">" not in subject}
    if len(found) < len(subjects):
        try:
            info = await connection.api(f"STREAM.INFO.{config['name']}", subjects_filter=">")
        except ApiError as error:
            if error.number == STREAM_NOT_FOUND:
                return set()
            raise error.as_driver_error(f"look at stream {config['name']!r}") from error
        for subject in info["state"].get("subjects") or {}:
            scheduled = names.due_of_schedule(subject) is not None
            found.add(subject.rsplit(".", 3)[0] if scheduled else subject)
    return found


async def schedules(connection: NatsConnection, stream: str, base: str) -> list[int]:
    """When each record that the server keeps until it is due is due."""
    due: list[int] = []
    while True:
        try:
            info = await connection.api(
                f"STREAM.INFO.{stream}", subjects_filter=f"{retry_prefix(base)}*.at.>", offset=len(due)
            )
        except ApiError as error:
            raise error.as_driver_error(f"look at stream {stream!r}") from error
        subjects: dict[str, int] = info["state"].get("subjects") or {}
        due += [at for at in map(names.due_of_schedule, subjects) if at is not None]
        if not subjects or len(due) >= int(info.get("total", 0)):
            return due


async def dues(connection: NatsConnection, stream: str, channel: str, limit: int) -> list[int]:
    """When the first records of a retry channel that are not kept by the server's schedule are due."""
    due: list[int] = []
    after = 0
    while len(due) < limit:
        found = await _next(connection, stream, channel, after + 1)
        if found is None:
            break
        due.append(_delivery(stream, channel, found).due_ms)
        after = found["seq"]
    return due


async def _next(connection: NatsConnection, stream: str, subject: str, sequence: int) -> dict[str, Any] | None:
    """The first record on `subject` at or after `sequence`."""
    try:
        answer = await connection.api(f"STREAM.MSG.GET.{stream}", next_by_subj=subject, seq=max(sequence, 1))
    except ApiError as error:
        if error.number in {NO_MESSAGE, STREAM_NOT_FOUND}:
            return None
        raise error.as_driver_error(f"read stream {stream!r}") from error
    found: dict[str, Any] = answer["message"]
    return found


def _is_retry(channel: str) -> bool:
    rung = parse(channel)
    return rung is not None and rung.number > 0


def _delivery(stream: str, channel: str, found: dict[str, Any]) -> Delivery:
    decoded = Decoded(base64.b64decode(found.get("hdrs", "")) or b"\r\n\r\n")
    stored = datetime.fromisoformat(found["time"])
    return Delivery(
        channel=channel,
        payload=base64.b64decode(found.get("data", "")),
        key=decoded.key,
        headers=decoded.headers,
        timestamp_ms=decoded.timestamp_ms or int(stored.timestamp() * 1000),
        due_ms=decoded.due_ms,
        source=stream,
        offset=found["seq"],
        attempt=int(channel.rpartition(".")[2]) if _is_retry(channel) else 0,
    )
