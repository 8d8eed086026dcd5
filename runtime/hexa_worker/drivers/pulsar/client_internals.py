"""All that is used of pulsar-client behind its public interface, and why.

Its C++ objects (the extension module ``_pulsar``) have Python wrappers, which cost more for each message than all that
this driver does with it. `tests/drivers/test_pulsar_client_internals.py` tells whether a release still has these.
"""

from collections.abc import Callable
from typing import Any

import _pulsar

NEVER = 1 << 60
_BATCH_SIZE = 0x30  # the field `batch_size` of a serialized id, a number


def raw_consumer(consumer: Any) -> Any:
    """What a consumer wraps: its messages are not wrapped one by one, and an acknowledgement is one call."""
    return consumer._consumer


def raw_producer(producer: Any) -> Any:
    """What a producer wraps: it takes messages that are built, and its callbacks wrap no id."""
    return producer._producer


def ask_partitions(client: Any, topic: str, answer: Callable[[Any, Any], None]) -> None:
    """Have ``answer(result, partitions)`` called: the public question blocks, for as long as all its tries take."""
    client._client.get_topic_partitions_async(topic, answer)


def new_builder() -> Any:
    """Builds one message: the public `send_async` makes one for each message, from Python's values that it checks."""
    return _pulsar.MessageBuilder()


def new_id(partition: int, ledger: int, entry: int, index: int = -1) -> Any:
    """The id of a message in a batch, or of a whole entry (-1), as what is not wrapped wants it."""
    return _pulsar.MessageId(partition, ledger, entry, index)


def size_of(message_id: Any) -> int:
    """How many messages are in the entry of a message; `NEVER`: it is not known.

    The library does not tell, but writes it into an id's serialized form.
    """
    data: bytes = message_id.serialize()
    place = 0
    while place < len(data):
        field, place = _varint(data, place)
        value, place = _varint(data, place)
        if field == _BATCH_SIZE and value:
            return value
    return NEVER


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            break
        shift += 7
    return value, place


def is_result(value: Any) -> bool:
    """Whether it is what callbacks get; exceptions of the public interface stand for the same."""
    return isinstance(value, _pulsar.Result)


def is_plain_error(error: Any) -> bool:
    """Whether an exception is of no class of its own, so that only its text names the result."""
    return type(error) is _pulsar.PulsarException
