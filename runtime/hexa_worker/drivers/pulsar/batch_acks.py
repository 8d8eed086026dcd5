"""Acknowledging whole entries: a batch that is done costs one acknowledgement instead of one for each message.

The client library and the brokers spend more on acknowledgements inside of a batch than on all else. So when many are
settled at once, those of an entry that is not done yet wait, for a moment, for the rest of it; what is done in full is
acknowledged as one. What waits is not handed out again meanwhile, whatever the brokers send.
"""

import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any

from hexa_worker.drivers.pulsar.client_internals import NEVER, new_id, size_of

MANY = 64
"""So many settled at once are worth to wait for the rest of their entries."""
WAIT_S = 0.05
Place = tuple[str, int]


class BatchEntry:
    """A batch as the brokers store it, as far as this process was given its messages.

    Args:
        message_id: of its first message that came.
        topic: where it is.
    """

    __slots__ = ("_first", "_topic", "last_index", "left", "waiting")

    def __init__(self, message_id: Any, topic: str) -> None:
        self._first = message_id
        self._topic = topic
        self.last_index = -1
        """Its messages come in order; one that does not comes again, and counts for another `BatchEntry`."""
        self.left = size_of(message_id)
        """How many of its messages are not done: 0 only if each came to us, was done, and waits to be acknowledged."""
        self.waiting: list[tuple[Place, Any]] = []

    def whole_id(self) -> Any:
        """The id that stands for all its messages."""
        first = self._first
        whole = new_id(first.partition(), first.ledger_id(), first.entry_id())
        whole.topic_name(self._topic)
        return whole


Token = tuple[Any, BatchEntry | None]
"""`Delivery.token`: the message's id, and its entry unless it is stored by itself."""


class BatchAcks:
    """What is done and not acknowledged yet. From any thread."""

    def __init__(self) -> None:
        self.done: set[Place] = set()
        """What waits: it must not be handed out again."""
        self._begun: dict[BatchEntry, float] = {}
        self._lock = threading.Lock()

    def add(self, settled: Sequence[tuple[Place, Token]]) -> list[Any]:
        """Messages are done; the ids, of messages and whole entries, that are to be acknowledged now."""
        now: list[Any] = []
        wait, at = len(settled) >= MANY, monotonic()
        begun, done = self._begun, self.done
        with self._lock:
            for place, (message_id, entry) in settled:
                if entry is None or entry.left >= NEVER:
                    now.append(message_id)
                elif not wait:
                    now.append(message_id)
                    now += self._give_up(entry)
                else:
                    entry.left -= 1
                    entry.waiting.append((place, message_id))
                    done.add(place)
                    if entry not in begun:
                        begun[entry] = at
                    if not entry.left:
                        now.append(entry.whole_id())
                        self._forget(entry)
        return now

    def _give_up(self, entry: BatchEntry) -> list[Any]:
        """From now on the messages of an entry are acknowledged one by one."""
        ids = [message_id for _, message_id in entry.waiting]
        self._forget(entry)
        entry.left = NEVER
        return ids

    def _forget(self, entry: BatchEntry) -> None:
        self.done.difference_update([place for place, _ in entry.waiting])
        entry.waiting = []
        self._begun.pop(entry, None)

    def overdue(self, *, everything: bool = False) -> list[Any]:
        """The ids of what has waited long enough for the rest of its entry (or of all that waits)."""
        if not self._begun:
            return []
        late: list[Any] = []
        before = monotonic() - WAIT_S
        with self._lock:
            for entry, at in list(self._begun.items()):
                if at > before and not everything:
                    break
                late += self._give_up(entry)
        return late
