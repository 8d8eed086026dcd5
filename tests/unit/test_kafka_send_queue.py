"""What one partition's outgoing messages are numbered by."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import OutOfOrderSequenceNumber
from aiokafka.record.default_records import DefaultRecordBatch

from hexa_worker.clock import SystemClock
from hexa_worker.core.message import Message
from hexa_worker.drivers.kafka.producer import Answer, Sending
from hexa_worker.drivers.kafka.send_queue import SendCall, SendQueue
from hexa_worker.errors import DriverUnavailable

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

PLACE = TopicPartition("orders", 0)
OPTIONS: Any = SimpleNamespace(batch_bytes=10_000, compression="none")
CONNECTION: Any = SimpleNamespace(timeout_s=5.0, options=OPTIONS)
REGISTRY: Any = SimpleNamespace(forget=lambda _topic: None)


class Script:
    """A producer whose ids and answers are written down; it keeps note of what was sent."""

    def __init__(self, ids: Sequence[int | DriverUnavailable], answers: Sequence[Answer]) -> None:
        self._ids = list(ids)
        self._answers = list(answers)
        self.sent: list[tuple[int, int]] = []
        """Producer id and first number of each batch."""

    async def identified(self, *, not_as: int | None) -> int:
        """The next id."""
        del not_as
        found = self._ids.pop(0)
        if isinstance(found, DriverUnavailable):
            raise found
        return found

    async def leader(self, place: TopicPartition, seconds: float, *, moved: bool) -> int:
        """Always the same."""
        del place, seconds, moved
        return 0

    def submit(self, node: int, place: TopicPartition, data: bytes) -> Sending:
        """Answer at once."""
        del node
        batch = DefaultRecordBatch(data)
        self.sent.append((batch.producer_id, batch.base_sequence))
        sending = Sending(place, data)
        sending.left = True
        sending.answer.set_result(self._answers.pop(0))
        return sending


async def test_an_id_that_a_leader_has_forgotten_is_not_used_again_while_there_is_no_other() -> None:
    """Its first number would be that of an earlier batch, and this one would count as stored already."""
    forgotten = Answer(OutOfOrderSequenceNumber.errno)
    producer: Any = Script([1, DriverUnavailable("away"), 2], [Answer(0, 0), forgotten, Answer(0, 1)])
    queue = SendQueue(PLACE, producer, REGISTRY, CONNECTION, SystemClock())
    calls = []
    for payload in (b"a", b"b"):
        calls.append(call := SendCall(1))
        queue.add(call, 0, Message(channel="orders", payload=payload))
        await call.done
    assert [call.answers for call in calls] == [["orders-0-0"], ["orders-0-1"]]
    assert producer.sent == [(1, 0), (1, 1), (2, 0)]
