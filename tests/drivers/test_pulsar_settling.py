"""Settling on pulsar, without a broker: what a source that is closed meanwhile says."""

from collections.abc import Sequence
from typing import Any, cast

import anyio
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked, Failure, RetryAt, Settlement
from hexa_worker.drivers.base import Backlog, Unsettled
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.drivers.pulsar.publisher import PublishCall
from hexa_worker.drivers.pulsar.source import PulsarSource, SourceHooks
from hexa_worker.drivers.pulsar.threads import Threads
from hexa_worker.errors import LeaseLost
from tests.drivers.consuming import spec

pytestmark = pytest.mark.anyio


class _Consumer:
    """Is connected; nobody may acknowledge with it."""

    connected = True
    retries = False

    def close(self) -> None:
        return


def nothing() -> None:
    """Nothing is behind this source."""


HOOKS = SourceHooks(
    measure=lambda _: Backlog(ready=0, delayed=0, leased=0), ending=nothing, close=nothing, closed=nothing
)


async def test_a_source_that_is_closed_while_a_retry_is_written_has_settled_nothing() -> None:
    loop, calls, begun = LoopHandle(), list[PublishCall](), anyio.Event()

    def begin(messages: Sequence[Message]) -> PublishCall:
        calls.append(PublishCall(messages, loop, 10.0))
        begun.set()
        return calls[-1]

    source = PulsarSource(spec("closing"), begin, SystemClock(), loop, Threads(), HOOKS)
    deliveries = [Delivery(channel="in", payload=b"x", source="in", offset=number) for number in range(2)]
    source.known.update({(each.source, each.offset): cast("Any", _Consumer()) for each in deliveries})
    retry = RetryAt(deliveries[0], Message(channel="r", payload=b"x"), 0.0, Failure(error="", message="", reason=""))
    settlements: list[Settlement] = [retry, Acked(deliveries[1])]
    answers: list[Unsettled] = []

    async def settle() -> None:
        answers.extend(await source.settle(settlements))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(settle)
            await begun.wait()
            await source.close()
            calls[0].answer(0, "stored")
    assert [each.settlement for each in answers] == settlements
    assert all(isinstance(each.error, LeaseLost) for each in answers)
