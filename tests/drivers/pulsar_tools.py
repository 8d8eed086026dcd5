"""What the tests of the pulsar driver share."""

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, cast
from urllib.request import Request, urlopen

import anyio
import pulsar
from anyio import to_thread

from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.message import Delivery
from hexa_worker.drivers.base import Source
from hexa_worker.drivers.pulsar import PulsarDriver
from tests.drivers.consuming import PLENTY, kept_open
from tests.lab.base import Broker
from tests.lab.round_trips import pulsar_silence


def options(node: Broker, **more: Any) -> Pulsar:
    """Options with short times."""
    known: dict[str, Any] = {"url": node.address, "admin_url": node.admin_address, "timeout_s": 5.0}
    return Pulsar(**{**known, "delay_tick_s": 0.1, **more})


async def expect_quiet(source: Source, for_s: float = 0.5) -> None:
    """Nothing comes."""
    come: list[Delivery] = []
    with anyio.move_on_after(for_s):
        come = await source.receive(100, PLENTY)
    assert come == []


@contextmanager
def raw_client(node: Broker, **more: Any) -> Iterator[Any]:
    """pulsar-client's own client."""
    client = pulsar.Client(node.address, logger=pulsar_silence(), **more)
    try:
        yield cast("Any", client)
    finally:
        client.close()


def opened(options: Pulsar) -> AbstractAsyncContextManager[PulsarDriver]:
    """An open driver; closed at the end."""
    return kept_open(PulsarDriver(options))


async def ask(node: Broker, method: str, path: str, body: bytes | None = None) -> Any:
    """What the admin API answers."""

    def call() -> Any:
        request = Request(node.admin_address + path, data=body, method=method)
        request.add_header("Content-Type", "application/json")
        with urlopen(request) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    return await to_thread.run_sync(call)
