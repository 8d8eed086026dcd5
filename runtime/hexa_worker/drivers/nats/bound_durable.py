"""A durable that somebody else made, which a subscription goes on with (``durable`` of its nats table).

What hinders delivery without end is changed; what changes which messages come, or what acknowledging means, is refused.
"""

from typing import Any

from hexa_worker.config.nats import NatsSubscription
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.nats import consumers, names
from hexa_worker.errors import ConfigError

LIMITS = ("backoff", "inactive_threshold", "max_batch", "max_expires", "max_bytes")
"""Taken off: ``ack_wait`` says when it delivers again, it stays while nobody reads, and pulls may be large."""

MISSING = "does not exist: is it spelled right? Without the key `durable` the worker makes one of its own"


def options_of(spec: SubscriptionSpec) -> NatsSubscription:
    """The subscription's own table. Raises ConfigError when it is for one channel, and there are others."""
    options = spec.options if isinstance(spec.options, NatsSubscription) else NatsSubscription()
    for key in ("durable", "start_sequence"):
        if getattr(options, key) is not None and (spec.pattern is not None or len(spec.channels) != 1):
            where = f"subscriptions.{spec.action}.nats.{key}"
            raise ConfigError("goes with exactly one channel", where=where, hint="make a subscription for each channel")
    return options


def name_of(spec: SubscriptionSpec, stream: str, channel: str) -> str:
    """The durable that keeps a subscription's progress in a channel."""
    return options_of(spec).durable or names.durable(spec.group, stream, channel)


def problems(config: dict[str, Any], channel: str, subjects: list[str]) -> list[str]:
    """Why a subscription cannot read through a durable.

    Args:
        config: the durable's.
        channel: what is to be read.
        subjects: what its stream keeps.
    """
    wanted = {"ack_policy": "explicit", "replay_policy": "instant"}
    found = consumers.differences({**config, **wanted}, config)
    delivers = _filters(config) or subjects
    if delivers != [channel]:
        found.append(f"it delivers {', '.join(delivers)}, wanted {channel} alone")
    if config.get("headers_only"):
        found.append("it delivers headers only")
    return found


def fitted(config: dict[str, Any]) -> dict[str, Any]:
    """A durable's configuration without what would keep messages from coming."""
    return {key: value for key, value in config.items() if key not in LIMITS} | {"max_deliver": -1}


def _filters(config: dict[str, Any]) -> list[str]:
    one = config.get("filter_subject")
    return [one] if one else list(config.get("filter_subjects") or ())
