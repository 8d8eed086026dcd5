"""Which topics are channels, and which of them a subscription reads. Pure."""

import re
from collections.abc import Iterable

from hexa_worker.drivers.base import SubscriptionSpec

INTERNAL = (".dlq.removed", "__consumer_offsets", "__transaction_state", "__share_group_state")
"""Ends of names of topics that are nobody's channels."""


def channels_of(spec: SubscriptionSpec, known: Iterable[str]) -> tuple[str, ...]:
    """The channels that a subscription reads, without its retry channels."""
    if spec.pattern is None:
        return spec.channels
    pattern = re.compile(spec.pattern)
    own = {*spec.retry_channels, spec.dead_letter_channel}
    return tuple(name for name in known if name not in own and not name.endswith(INTERNAL) and pattern.fullmatch(name))
