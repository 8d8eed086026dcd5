"""Durable consumers: made or checked, brought up to date where that is harmless."""

import logging
from typing import Any

from hexa_worker.config.nats import Nats, NatsSubscription
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.nats.connection import Connection
from hexa_worker.drivers.nats.failures import CONSUMER_NOT_FOUND, ApiError
from hexa_worker.drivers.nats.streams import NANOSECONDS
from hexa_worker.errors import DriverRejected

_MUST_MATCH = ("ack_policy", "filter_subject", "max_deliver", "replay_policy")
_MAY_CHANGE = ("ack_wait", "max_ack_pending")
log = logging.getLogger("hexa_worker.drivers.nats")


def config(
    durable: str, subject: str, *, ack_wait_s: float, max_ack_pending: int, deliver_policy: str
) -> dict[str, Any]:
    """What a shared durable is created with."""
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
    """What the shared durable of a subscription's channel is created with."""
    own = spec.options if isinstance(spec.options, NatsSubscription) else NatsSubscription()
    return config(
        durable,
        channel,
        ack_wait_s=own.ack_wait_s or options.ack_wait_s,
        max_ack_pending=own.max_ack_pending or options.max_ack_pending,
        deliver_policy="all" if spec.start == "earliest" else "new",
    )


async def ensure(connection: Connection, stream: str, wanted: dict[str, Any]) -> None:
    """Make a durable, or check the one that is there.

    Raises:
        DriverRejected: it exists and is for something else, or the server refuses it.
        DriverUnavailable: the server is away.
    """
    durable = wanted["durable_name"]
    what = f"durable {durable!r} of stream {stream!r}"
    try:
        try:
            found: dict[str, Any] = (await connection.api(f"CONSUMER.INFO.{stream}.{durable}"))["config"]
        except ApiError as error:
            if error.number != CONSUMER_NOT_FOUND:
                raise
            await _create(connection, stream, wanted)
            return
        _compare(what, wanted, found)
        changed = {key: wanted[key] for key in _MAY_CHANGE if found.get(key) != wanted[key]}
        if changed:
            log.info("%s: updating %s", what, ", ".join(f"{key} to {value}" for key, value in changed.items()))
            await _create(connection, stream, {**found, **changed})
    except ApiError as error:
        raise error.as_driver_error(what) from error


async def _create(connection: Connection, stream: str, config: dict[str, Any]) -> None:
    durable = config["durable_name"]
    answer = await connection.api(f"CONSUMER.DURABLE.CREATE.{stream}.{durable}", stream_name=stream, config=config)
    _compare(f"durable {durable!r} of stream {stream!r}", config, answer["config"])


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
