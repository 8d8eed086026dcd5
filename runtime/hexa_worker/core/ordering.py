"""Which deliveries may not overtake each other."""

from enum import Enum
from zlib import crc32


class OrderBy(Enum):
    """What keeps its order: nothing, the deliveries of one key, or those of one channel."""

    NONE = "none"
    KEY = "key"
    CHANNEL = "channel"


OrderKey = bytes | str
"""What keeps its order: a key, or the name of a channel."""


def order_key(order_by: OrderBy, key: bytes | None, channel: str) -> OrderKey | None:
    """What a delivery with this key from this channel keeps its order with; None: with nothing."""
    if order_by is OrderBy.KEY:
        return key
    return channel if order_by is OrderBy.CHANNEL else None


def stripe_of(key: bytes | None, offset: int, stripes: int) -> int:
    """Which of `stripes` a delivery belongs to: one key, one stripe, in every process and on every machine.

    Deliveries without a key promise no order among themselves; their offset spreads them.
    """
    return (crc32(key) if key is not None else offset) % stripes
