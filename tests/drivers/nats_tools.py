"""What the tests of the nats driver share."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from hexa_worker.config.nats import Nats
from hexa_worker.drivers.nats import NatsDriver
from tests.drivers.consuming import kept_open


def options(address: str, **more: Any) -> Nats:
    """Options with short times; what is published before it is subscribed to is kept."""
    known = {"ack_wait_s": 3.0, "timeout_s": 5.0, "create_emitted_channels": True, "max_emitted_channels": 10_000}
    return Nats(servers=(address,), **{**known, **more})


def opened(address: str, **more: Any) -> AbstractAsyncContextManager[NatsDriver]:
    """An open driver; closed at the end."""
    return kept_open(NatsDriver(options(address, **more)))
