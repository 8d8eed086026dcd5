"""Which topics are channels, and which of them a subscription reads. Pure."""

from collections.abc import Iterable

from hexa_worker.drivers.base import SubscriptionSpec

INTERNAL = (".dlq.removed", "__consumer_offsets", "__transaction_state", "__share_group_state")
"""Ends of names of topics that are nobody's channels."""


def channels_of(spec: SubscriptionSpec, known: Iterable[str]) -> tuple[str, ...]:
    """The channels that a subscription reads, without its retry channels."""
    return spec.channels_among(name for name in known if not name.endswith(INTERNAL))
