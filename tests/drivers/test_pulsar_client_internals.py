"""What the pulsar driver uses of pulsar-client behind its public interface is there in the installed release."""

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _pulsar
import pulsar
import pytest

from hexa_worker.drivers.pulsar import client_internals
from hexa_worker.drivers.pulsar.client_internals import (
    NEVER,
    ask_partitions,
    is_plain_error,
    is_result,
    new_builder,
    new_id,
    raw_consumer,
    raw_producer,
    size_of,
)
from tests.drivers.pulsar_tools import raw_client
from tests.lab.base import Broker

ANSWER_S = 20.0


def test_nobody_else_in_the_driver_knows_what_the_client_library_hides() -> None:
    own = Path(client_internals.__file__)
    others = [path for path in own.parent.glob("*.py") if path != own and "import _pulsar" in path.read_text()]
    assert others == []


def test_results_and_errors_are_told_apart() -> None:
    assert is_result(_pulsar.Result.Ok)
    assert not is_result(pulsar.Timeout())
    assert is_plain_error(_pulsar.PulsarException())
    assert not is_plain_error(pulsar.Timeout())


def test_an_id_that_was_made_names_what_it_was_made_of() -> None:
    made = new_id(3, 7, 11)
    assert (made.partition(), made.ledger_id(), made.entry_id(), made.batch_index()) == (3, 7, 11, -1)
    assert new_id(3, 7, 11, 5).batch_index() == 5
    assert size_of(made) == NEVER
    made.topic_name("persistent://public/default/t")


@pytest.mark.pulsar
def test_consumers_and_producers_wrap_what_the_driver_uses(pulsar: Broker, unique_name: Callable[..., str]) -> None:
    topic = unique_name()
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()

    def answer(result: Any, value: Any) -> None:
        answers.put((result, value))

    with raw_client(pulsar) as client:
        ask_partitions(client, topic, answer)
        result, parts = answers.get(timeout=ANSWER_S)
        assert (result, [part.rpartition("/")[2] for part in parts]) == (_pulsar.Result.Ok, [topic])
        wrapped = client.subscribe(topic, "raw", batch_index_ack_enabled=True)
        consumer = raw_consumer(wrapped)
        producer = raw_producer(
            client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=60_000)
        )
        for number in range(3):
            builder = new_builder()
            builder.content(b"%d" % number)
            builder.properties({"name": "value"})
            builder.partition_key("key")
            builder.event_timestamp(12)
            producer.send_async(builder.build(), answer)
        producer.flush()
        sent = [answers.get(timeout=ANSWER_S) for _ in range(3)]
        assert all(result == _pulsar.Result.Ok for result, _ in sent)
        messages = [consumer.receive(20_000) for _ in range(3)]
        assert [message.message_id().batch_index() for message in messages] == [0, 1, 2]
        assert {size_of(message.message_id()) for message in messages} == {3}
        (first, *_) = messages
        assert (first.data(), first.properties(), first.partition_key()) == (b"0", {"name": "value"}, "key")
        assert (first.event_timestamp(), first.ordering_key(), first.encryption_context()) == (12, "", None)
        assert first.topic_name().endswith(topic)
        assert first.publish_timestamp() > 0
        whole = new_id(-1, first.message_id().ledger_id(), first.message_id().entry_id())
        whole.topic_name(first.topic_name())
        consumer.acknowledge(whole)
        wrapped.close()
        again = raw_consumer(client.subscribe(topic, "raw"))
        with pytest.raises(_pulsar.Timeout):
            again.receive(200)
        assert consumer.batch_receive is not None
