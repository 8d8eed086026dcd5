"""What the Pulsar driver makes of a broker's statistics."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.backlog import OWNER, Gauge, InFlight
from hexa_worker.drivers.pulsar.connection import PulsarConnection

NOTHING = InFlight(channels=0, retries=0, queued=0)


class _Admin:
    """Tells of one subscription what it is given."""

    def __init__(self, backlog: int, unacked: int, owner: str) -> None:
        consumers = [{"unackedMessages": unacked, "availablePermits": 100, "metadata": {OWNER: owner}}]
        self._found = {"msgBacklog": backlog, "consumers": consumers}

    def topic_stats(self, _topic: str) -> Mapping[str, Any]:
        return {"subscriptions": {"group": self._found}}


@pytest.mark.parametrize("owner", ["this", "another process"])
def test_a_consumer_that_is_said_to_have_what_nobody_is_to_do_any_more_leaves_nothing_to_do(owner: str) -> None:
    connection = SimpleNamespace(client=SimpleNamespace(get_topic_partitions=lambda topic: [topic]))
    gauge = Gauge(
        cast("PulsarConnection", connection),
        cast("Admin", _Admin(backlog=0, unacked=3, owner=owner)),
        SystemClock(),
        subscription="group",
        owner="this",
        channels=lambda: ["work"],
        retries=[],
    )
    backlog = gauge.measure(NOTHING)
    assert (backlog.ready, backlog.leased, backlog.idle) == (0, 0, True)
