"""Readers: a topic read without a subscription. Blocking; for threads."""

from collections.abc import Iterator
from typing import Any

import pulsar

FETCHED = 64
"""Messages that a reader fetches ahead; each may be as large as messages get."""
READ_MS = 5_000
"""What a broker says it has comes within this time, also from a loaded broker that moves or loads the topic."""


def open_reader(client: Any, topic: str, start: Any = pulsar.MessageId.earliest, *, fetched: int = FETCHED) -> Any:
    """A reader of what follows `start`. Raises the client library's exceptions."""
    return client.create_reader(
        topic,
        start,
        receiver_queue_size=fetched,
        # Else an encrypted message never comes, while the broker goes on saying that there is one.
        crypto_failure_action=pulsar.ConsumerCryptoFailureAction.CONSUME,
    )


def unread(reader: Any) -> Iterator[Any]:
    """The messages up to the end of the topic. Raises the client library's exceptions."""
    while reader.has_message_available():
        yield reader.read_next(READ_MS)
