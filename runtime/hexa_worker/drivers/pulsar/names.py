"""Channels and topics: what a channel is called in Pulsar, and where in it a message lies."""

from hexa_worker.core.naming import channel_problem
from hexa_worker.errors import DriverRejected

DEAD_LETTER_SUBSCRIPTION = "hexa-worker-desk"  # brokers hold subscriptions of this name
"""The subscription that keeps dead letters until they are removed."""
UNREAD_SUBSCRIPTION = "hexa-worker-unread"
"""The subscription that keeps what is published to a channel until it has a subscription of somebody's own."""


LEDGER_BITS, ENTRY_BITS, BATCH_BITS = 27, 25, 11
LEDGERS, ENTRIES, BATCHES = 1 << LEDGER_BITS, 1 << ENTRY_BITS, 1 << BATCH_BITS
LEDGER_SHIFT = ENTRY_BITS + BATCH_BITS


class TopicNames:
    """Finds the topic of a channel and the channel of a topic.

    Args:
        topic_format: ``persistent://tenant/namespace/{}``.
    """

    def __init__(self, topic_format: str) -> None:
        self._prefix, _, self._suffix = topic_format.partition("{}")
        self.namespace = "/".join(topic_format.split("/")[2:4])

    def topic(self, channel: str) -> str:
        """The topic of a channel.

        Raises:
            DriverRejected: it cannot be one.
        """
        problem = channel_problem("pulsar", channel)
        if problem:
            raise DriverRejected(problem)
        if channel.startswith("persistent://"):
            return channel
        return f"{self._prefix}{channel}{self._suffix}"

    def channel(self, topic: str) -> str:
        """The channel of a topic, or of the partitioned topic that it is a part of."""
        base = whole_topic(topic)
        if base.startswith(self._prefix) and base.endswith(self._suffix) and "/" not in base[len(self._prefix) :]:
            return base[len(self._prefix) : len(base) - len(self._suffix)]
        return base

    def source(self, topic: str) -> str:
        """What deliveries of a topic (or partition) name as their source: the channel, with the partition."""
        return f"{self.channel(topic)}{topic[len(whole_topic(topic)) :]}"


def whole_topic(topic: str) -> str:
    """The partitioned topic that `topic` is a part of, or itself."""
    base, mark, number = topic.rpartition("-partition-")
    return base if mark and number.isdecimal() else topic


def place(ledger: int, entry: int, batch_index: int) -> tuple[str, int]:
    """A message's place in its topic: an addition to the source's name, and an offset of at most 63 bits.

    Offsets grow as the topic does. What does not fit into its bits (134 million ledgers, 33 million entries in a
    ledger, 2,048 messages in an entry) goes into the addition, which is empty otherwise: no two messages are
    called the same.
    """
    batch_index = max(batch_index, 0)
    addition = ""
    if ledger >= LEDGERS or entry >= ENTRIES or batch_index >= BATCHES:
        addition = f"@{ledger >> LEDGER_BITS:x}.{entry >> ENTRY_BITS:x}.{batch_index >> BATCH_BITS:x}"
    offset = (ledger % LEDGERS << LEDGER_SHIFT) | (entry % ENTRIES << BATCH_BITS) | (batch_index % BATCHES)
    return addition, offset


def place_of(offset: int) -> tuple[int, int, int]:
    """The ledger, the entry and the index in its batch that an offset without an addition means."""
    return offset >> LEDGER_SHIFT, offset >> BATCH_BITS & (ENTRIES - 1), offset & (BATCHES - 1)
