"""Durable consumers: made or checked, brought up to date where that is harmless."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from hexa_worker.config.nats import Nats, NatsSubscription
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.errors import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError
from hexa_worker.drivers.nats.streams import NANOSECONDS
from hexa_worker.errors import DriverRejected

_MUST_MATCH = ("ack_policy", "filter_subject", "max_deliver", "replay_policy")
_MAY_CHANGE = ("ack_wait", "max_ack_pending")
log = logging.getLogger("hexa_worker.drivers.nats")


def config(
    durable: str, subject: str, *, ack_wait_s: float, max_ack_pending: int, deliver_policy: str = "all"
) -> dict[str, Any]:
    """What a durable is created with."""
    return {
        "durable_name": durable,
        "deliver_policy": deliver_policy,
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_s * NANOSECONDS),
        "max_deliver": -1,
        "filter_subject": subject,
        "replay_policy": "instant",
        "max_ack_pending": max_ack_pending,
    }


def config_of(options: Nats, spec: SubscriptionSpec, durable: str, channel: str) -> dict[str, Any]:
    """What the shared durable of a subscription's channel is created with, but for where it begins."""
    own = spec.options if isinstance(spec.options, NatsSubscription) else NatsSubscription()
    return config(
        durable,
        channel,
        ack_wait_s=own.ack_wait_s or options.ack_wait_s,
        max_ack_pending=own.max_ack_pending or options.max_ack_pending,
    )


async def ensure(
    connection: NatsConnection,
    stream: str,
    wanted: dict[str, Any],
    first: Callable[[], Awaitable[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Make a durable, or check the one that is there; returns all about it.

    Args:
        connection: the way to the server.
        stream: what it reads.
        wanted: what it is to be like.
        first: asked where it begins, if it has to be made.

    Raises:
        DriverRejected: it exists and is for something else, or the server refuses it.
        DriverUnavailable: the server is away.
    """
    durable = wanted["durable_name"]
    what = f"durable {durable!r} of stream {stream!r}"
    try:
        found = await find(connection, stream, durable)
        if found is None:
            begin = {} if first is None else await first()
            return await _make(connection, stream, {**wanted, **begin})
        config = found["config"]
        _compare(what, wanted, config)
        changed = {key: wanted[key] for key in _MAY_CHANGE if config.get(key) != wanted[key]}
        if changed:
            log.info("%s: updating %s", what, ", ".join(f"{key} to {value}" for key, value in changed.items()))
            return await _create(connection, stream, {**config, **changed})
    except ApiError as error:
        raise error.as_driver_error(what) from error
    else:
        return found


async def find(connection: NatsConnection, stream: str, durable: str) -> dict[str, Any] | None:
    """All about a durable; None: there is none. Raises ApiError, DriverUnavailable, DriverRejected."""
    try:
        return await connection.api(f"CONSUMER.INFO.{stream}.{durable}")
    except ApiError as error:
        if error.number != CONSUMER_NOT_FOUND:
            raise
        return None


def floor_of(info: dict[str, Any]) -> int:
    """Up to which sequence a consumer is settled. One that nobody has read from tells it here only in part (2.9)."""
    settled, delivered = int(info["ack_floor"]["stream_seq"]), int(info["delivered"]["stream_seq"])
    return settled if info.get("num_ack_pending") or may_have_given_up(info) else max(settled, delivered)


def may_have_given_up(info: dict[str, Any]) -> bool:
    """Whether a durable of others may have delivered something so often that it never does again."""
    limited = int(info["config"].get("max_deliver", -1)) > 0
    return limited and int(info["ack_floor"]["consumer_seq"]) != int(info["delivered"]["consumer_seq"])


async def floor(connection: NatsConnection, stream: str, durable: str) -> int | None:
    """Up to which sequence a durable is settled; None: there is none. Raises DriverUnavailable, DriverRejected."""
    info = await look(connection, stream, durable)
    return None if info is None else floor_of(info)


async def look(connection: NatsConnection, stream: str, durable: str) -> dict[str, Any] | None:
    """All about a durable; None: there is none. Raises DriverUnavailable, DriverRejected."""
    try:
        return await connection.api(f"CONSUMER.INFO.{stream}.{durable}")
    except ApiError as error:
        if error.number in {CONSUMER_NOT_FOUND, STREAM_NOT_FOUND}:
            return None
        raise error.as_driver_error(f"look at durable {durable!r} of stream {stream!r}") from error


async def delete(connection: NatsConnection, stream: str, durable: str) -> None:
    """Delete a durable, if there is one. Raises DriverUnavailable, DriverRejected."""
    try:
        await connection.api(f"CONSUMER.DELETE.{stream}.{durable}")
    except ApiError as error:
        if error.number != CONSUMER_NOT_FOUND:
            raise error.as_driver_error(f"delete durable {durable!r}") from error


async def take_over(connection: NatsConnection, stream: str, info: dict[str, Any], config: dict[str, Any]) -> None:
    """Change a durable that is there. Raises DriverRejected, DriverUnavailable.

    Args:
        connection: the way to the server.
        stream: what it reads.
        info: all about it.
        config: what it is to be like.
    """
    before, what = info["config"], f"durable {info['name']!r} of stream {stream!r}"
    if config == before:
        return
    changes = [f"{key} from {before[key]}" for key in before if before[key] != config.get(key)]
    log.warning("%s is taken over, and its settings changed: %s", what, ", ".join(changes))
    try:
        await _create(connection, stream, config)
    except ApiError as error:
        raise error.as_driver_error(f"take over {what}") from error


async def _make(connection: NatsConnection, stream: str, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return await _create(connection, stream, wanted)
    except ApiError:
        found = await find(connection, stream, wanted["durable_name"])
        if found is None:
            raise
        _compare(f"durable {wanted['durable_name']!r} of stream {stream!r}", wanted, found["config"])
        return found  # somebody else was faster, and began elsewhere


async def _create(connection: NatsConnection, stream: str, config: dict[str, Any]) -> dict[str, Any]:
    durable = config["durable_name"]
    answer = await connection.api(f"CONSUMER.DURABLE.CREATE.{stream}.{durable}", stream_name=stream, config=config)
    _compare(f"durable {durable!r} of stream {stream!r}", config, answer["config"])
    return answer


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """In what the configuration of a durable differs from the wanted one, showing both."""
    differing = [
        f"{key} is {found.get(key)!r}, wanted {wanted.get(key)!r}"
        for key in _MUST_MATCH
        if found.get(key) != wanted.get(key)
    ]
    if found.get("deliver_subject"):
        differing.append("it pushes, wanted one that is pulled from")
    if found.get("priority_groups"):
        differing.append("it has priority groups, wanted none")
    return differing


def _compare(what: str, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    differing = differences(wanted, found)
    if differing:
        raise DriverRejected(f"{what} exists with another configuration: {'; '.join(differing)}")
