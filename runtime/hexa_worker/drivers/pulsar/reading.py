"""From the client library's messages to deliveries: the work done for every single message that comes."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from hexa_worker.core.message import Delivery
from hexa_worker.drivers.pulsar.batch_acks import BatchAcks, BatchEntry
from hexa_worker.drivers.pulsar.names import BATCH_BITS, BATCHES, ENTRIES, LEDGER_SHIFT, LEDGERS, place
from hexa_worker.drivers.pulsar.wire import PulsarOrigin, due_of, headers_of, key_of, said_of

_ENTRIES_KEPT = 64
_NOWHERE = PulsarOrigin("", "", 0)
log = logging.getLogger("hexa_worker.drivers.pulsar")


class Reading:
    """Makes deliveries of one consumer's messages.

    Args:
        origin_of: what the messages of a topic have in common.
        known: places of what was handed out and is not settled: such messages are dropped when they come again.
        owner: what `known` gets for each that is new.
        acknowledgements: what is settled, but not acknowledged yet, is dropped too.
        only_topic: where all messages come from; None: they say it.
    """

    def __init__(
        self,
        origin_of: Callable[[str], PulsarOrigin],
        known: dict[tuple[str, int], Any],
        owner: object,
        acknowledgements: BatchAcks,
        only_topic: str | None = None,
    ) -> None:
        self._origin_of = origin_of
        self._known = known
        self._owner = owner
        self._done = acknowledgements.done
        self._only_topic = only_topic
        self._origins: dict[str, PulsarOrigin] = {}
        self._entries: dict[tuple[int, int], BatchEntry] = {}
        self._locked_topics: set[str] = set()

    def read(self, messages: Sequence[Any]) -> list[Delivery]:
        """The deliveries of those that are new."""
        fresh: list[Delivery] = []
        try:
            self._read(messages, fresh)
        except BaseException:
            for one in fresh:  # nobody gets them now: they are new when they come again
                self._known.pop((one.source, one.offset), None)
            raise
        return fresh

    def _read(self, messages: Sequence[Any], fresh: list[Delivery]) -> None:
        known, done, origins, owner = self._known, self._done, self._origins, self._owner
        only_topic = self._only_topic
        present: BatchEntry | None = None
        present_key, last_topic, origin = (-1, -1), "", _NOWHERE
        for message in messages:
            topic = only_topic or message.topic_name()
            if topic is not last_topic:
                last_topic, origin = topic, origins.get(topic) or self._new_origin(topic)
            message_id = message.message_id()
            ledger, entry_id, index = message_id.ledger_id(), message_id.entry_id(), message_id.batch_index()
            entry: BatchEntry | None = None
            if index < 0:
                if message.encryption_context() is not None:  # a batch that is encrypted comes as one, too
                    self._locked(topic, message_id)
                    continue
            else:
                if (ledger, entry_id) != present_key or present is None or index <= present.last_index:
                    present_key = (ledger, entry_id)
                    present = self._entry(present_key, message_id, index, topic)
                present.last_index = index
                entry = present
            source = origin.source
            if ledger < LEDGERS and entry_id < ENTRIES and index < BATCHES:
                offset = (ledger << LEDGER_SHIFT) | (entry_id << BATCH_BITS) | (index if index > 0 else 0)  # noqa: FURB136
            else:
                addition, offset = place(ledger, entry_id, index)
                source += addition
            at = (source, offset)
            if at in known or at in done:
                continue
            properties, sorted_by = said_of(message)
            fresh.append(
                Delivery(
                    channel=origin.channel,
                    payload=message.data(),
                    key=key_of(properties, sorted_by) if properties else (sorted_by.encode() if sorted_by else None),
                    headers=headers_of(properties) if properties else (),
                    timestamp_ms=message.event_timestamp() or message.publish_timestamp(),
                    due_ms=due_of(properties) if properties else 0,
                    source=source,
                    offset=offset,
                    attempt=origin.attempt,
                    token=(message_id, entry),
                )
            )
            known[at] = owner

    def _locked(self, topic: str, message_id: Any) -> None:
        """Leave a message that is encrypted where it is: nobody here can read it, and its key may come some day."""
        if topic not in self._locked_topics:
            self._locked_topics.add(topic)
            log.warning(
                "pulsar: %s: message %d:%d is encrypted and a worker has no keys: it, and others like it, stay "
                "unacknowledged (lag counts them, --until-idle waits for them) until a consumer of this subscription "
                "that has the key takes them, or they are skipped; the other events go on",
                self._origin_of(topic).source,
                message_id.ledger_id(),
                message_id.entry_id(),
            )

    def _new_origin(self, topic: str) -> PulsarOrigin:
        origin = self._origins[topic] = self._origin_of(topic)
        return origin

    def _entry(self, key: tuple[int, int], message_id: Any, index: int, topic: str) -> BatchEntry:
        """The entry of a message, unless what comes now has come before: then another one."""
        entries = self._entries
        entry = entries.get(key)
        if entry is None or index <= entry.last_index:
            entry = entries[key] = BatchEntry(message_id, topic)
            if len(entries) > _ENTRIES_KEPT:
                del entries[next(iter(entries))]
        return entry
