"""A stream that is another one after a reconnection: nothing of it is settled for the one that was."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Acked, RetryAt
from hexa_worker.drivers.base import SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.nats.protocol import SubjectSubscription
from hexa_worker.drivers.nats.source import ChannelPart, NatsSource
from hexa_worker.errors import LeaseLost

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

SPEC = SubscriptionSpec(action="check", group="check", channels=("orders",), retry_base="check", retry_count=1)
REPLY = b"$JS.ACK.orders.check.1.1.1.1000.0"


class Server:
    """Connection and publisher in one: while it stores a retry the connection is lost, and is back."""

    up = True
    generation = 1
    max_payload = 1024 * 1024

    def __init__(self, *, made_anew: bool) -> None:
        self.sink: Callable[[list[Any]], None]
        self.born = "first"
        self.written = b""
        self._made_anew = made_anew
        self._changed: Callable[[bool], None]

    def on_change(self, changed: Callable[[bool], None]) -> None:
        """Whom to tell of a lost connection."""
        self._changed = changed

    def subscribe(self, sink: Callable[[list[Any]], None]) -> SubjectSubscription:
        """Where deliveries go."""
        self.sink = sink
        return SubjectSubscription("inbox", 1, sink)

    def unsubscribe(self, subscribed: SubjectSubscription) -> None:
        """Nothing comes by itself."""

    def forget_sink(self, subscribed: SubjectSubscription) -> None:
        """As above."""

    def write(self, data: bytes) -> None:
        """Keep note of it."""
        self.written += data

    async def api(self, action: str) -> dict[str, Any]:
        """All about the stream, or about its durable."""
        if action == "CONSUMER.INFO.orders.check":
            return {"delivered": {"stream_seq": 1}}
        assert action == "STREAM.INFO.orders"
        return {"created": self.born, "state": {"last_seq": 1}}

    def reconnected(self) -> None:
        """Tell of it."""
        self._changed(True)

    async def publish(self, messages: Sequence[Message], ids: Sequence[str], *, limited: Sequence[bool]) -> list[str]:
        """Store retries."""
        del ids, limited
        self.generation += 1
        self.born = "second" if self._made_anew else self.born
        self.reconnected()
        return ["retry-1"] * len(messages)


@pytest.mark.parametrize("made_anew", [True, False])
async def test_a_stream_that_was_made_anew_while_a_retry_was_stored_is_not_acknowledged(*, made_anew: bool) -> None:
    """What has the sequence now is another message, that another process may have in hand."""
    server: Any = Server(made_anew=made_anew)
    nothing: Any = None
    source = NatsSource(server, server, nothing, SPEC, "fast", SystemClock(), nothing, nothing_revoked)
    source.add_consumer(ChannelPart(stream="orders", durable="check", channel="orders", born="first"), 30.0)
    server.sink([(b"orders", REPLY, None, b"x")])
    (delivery,) = await source.receive(1, 1000)
    retry = RetryAt(delivery, Message(channel="check.retry.1", payload=b"x", due_ms=1), 1.0, nothing)
    unsettled = await source.settle([retry])
    assert [type(one.error) for one in unsettled] == [LeaseLost] * made_anew
    assert (b"+ACK" in server.written) is not made_anew


async def test_a_channel_that_is_gone_is_asked_about_no_more_and_leaves_its_place_to_the_next() -> None:
    server: Any = Server(made_anew=False)
    nothing: Any = None
    source = NatsSource(server, server, nothing, SPEC, "fast", SystemClock(), nothing, nothing_revoked)
    part = ChannelPart(stream="orders", durable="check", channel="orders", born="first")
    source.add_consumer(part, 30.0)
    server.sink([(b"orders", REPLY, None, b"x")])
    (old,) = await source.receive(1, 1000)
    source.pull_consumers[0].dismiss()
    server.api = None
    server.reconnected()
    (lost,) = await source.settle([Acked(old)])
    assert isinstance(lost.error, LeaseLost)

    source.add_consumer(part, 30.0)
    assert [(pull_consumer.number, pull_consumer.gone) for pull_consumer in source.pull_consumers] == [(0, False)]
    server.sink([(b"orders", REPLY, None, b"y")])
    (new,) = await source.receive(1, 1000)
    (lost,) = await source.settle([Acked(old)])
    assert isinstance(lost.error, LeaseLost)
    assert b"+ACK" not in server.written
    assert not await source.settle([Acked(new)])
    assert b"+ACK" in server.written
