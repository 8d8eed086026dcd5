"""One subscription of this process, as the broker thread sees it."""

import re
from collections import deque

from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.embedded.leasing.leases import LogLease


class Subscriber:
    """What claiming and reading need to know; touched by the broker thread only.

    Attributes:
        id: the row of its group.
        base: the row of its retry base.
        by_key: it leases stripes.
        leases: what it holds and has not finished.
        unread: leases of which something has not been handed out yet.
        emptied: leases in which nothing was left to hand out; they still have their rows.
        rotation: where the next claim begins, so that no channel and no stripe is favoured.
        closed: it takes nothing any more.
    """

    __slots__ = (
        "_channels",
        "_pattern",
        "base",
        "by_key",
        "closed",
        "emptied",
        "id",
        "leases",
        "rotation",
        "spec",
        "unread",
    )

    def __init__(self, spec: SubscriptionSpec, id_: int, base: int, *, by_key: bool) -> None:
        self.spec = spec
        self.id = id_
        self.base = base
        self.by_key = by_key
        self.leases: set[LogLease] = set()
        self.unread: deque[LogLease] = deque()
        self.emptied: list[LogLease] = []
        self.rotation = 0
        self.closed = False
        self._channels = frozenset(spec.channels)
        self._pattern = re.compile(spec.pattern) if spec.pattern is not None else None

    @property
    def ordered(self) -> bool:
        """Its leases bar the way for what follows them."""
        return self.by_key or self.spec.order_by is not OrderBy.NONE

    def reads(self, channel: str) -> bool:
        """Whether `channel` is one of its own; its group may have been others' before."""
        if self._pattern is not None:
            return self._pattern.fullmatch(channel) is not None
        return channel in self._channels
