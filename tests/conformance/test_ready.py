"""A worker without work shows that its broker is back, whatever the broker: the drivers as the actors use them."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from hexa_worker.actors.outage import Need, Outage
from hexa_worker.backoff import Backoff
from hexa_worker.drivers.base import Source, SubscriptionSpec
from hexa_worker.errors import DriverUnavailable
from hexa_worker.testing import DriverUnderTest
from tests.conformance.under_kafka import KAFKA, KafkaBroker
from tests.conformance.under_nats import NATS, NatsBroker
from tests.conformance.under_pulsar import PULSAR, PulsarBroker
from tests.lab.base import Broker

READY_WITHIN_S = 2.0


async def receive(source: Source, outage: Outage) -> None:
    """As the pump does, until the source is stopped."""
    backoff = Backoff()
    while True:
        try:
            if not await source.receive(1, 1_000):
                return
        except DriverUnavailable as error:
            outage.missed(Need.RECEIVING, error)
            await backoff.wait()


async def live_through_an_outage(under_test: DriverUnderTest[Any]) -> None:
    async with under_test.broker() as broker:
        driver = under_test.driver(broker)
        await driver.open()
        spec = SubscriptionSpec(action="idle", group="idle", channels=("idle.in",), retry_base="idle", retry_count=1)
        source = await driver.subscribe(spec)
        gone, back = anyio.Event(), anyio.Event()
        outage = Outage(lambda _error: gone.set(), back.set)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive, source, outage)
            tasks.start_soon(outage.run, source)
            assert under_test.away is not None
            assert under_test.back is not None
            await under_test.away(broker)
            await gone.wait()
            await under_test.back(broker)
            with anyio.fail_after(READY_WITHIN_S + under_test.slack_s):
                await back.wait()
            source.stop()
            tasks.cancel_scope.cancel()
        await driver.close()


@pytest.mark.parametrize(
    ("under_test", "proxied", "name"),
    [
        pytest.param(KAFKA, KafkaBroker, "kafka", marks=pytest.mark.kafka),
        pytest.param(NATS, NatsBroker, "nats", marks=pytest.mark.nats),
        pytest.param(PULSAR, PulsarBroker, "pulsar", marks=pytest.mark.pulsar),
    ],
    ids=["kafka", "nats", "pulsar"],
)
def test_an_idle_worker_is_ready_again_soon_after_an_outage(
    under_test: DriverUnderTest[Any],
    proxied: Any,
    name: str,
    get_broker: Callable[[str], Broker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxied, "node", get_broker(name))
    anyio.run(live_through_an_outage, under_test)
