"""Which topics these are: ids and cluster, as brokers tell since Kafka 2.8 (Metadata version 10).

A topic that was deleted and made again has the name and nothing else of the old one: offsets, and notes on finished
work, are of another book. The name alone does not tell; older brokers tell nothing else.
"""

import logging
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from hexa_worker.drivers.kafka.progress import NOTE_LIMIT, Book

log = logging.getLogger("hexa_worker.kafka")
Asking = Callable[[Any], Awaitable[Any]]
"""Sends a request to a broker and gives its answer."""
_METADATA, _FLEXIBLE = 3, 10
_NOBODY = bytes(16)
_SHORTEST_NOTE = 64


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka is not typed
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _TopicIds(Response):  # type: ignore[misc]  # as above
    API_KEY = _METADATA
    API_VERSION = _FLEXIBLE
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _TopicIdsQuestion(RequestStruct):  # type: ignore[misc]  # as above
    FLEXIBLE_VERSION = True
    API_KEY = _METADATA
    API_VERSION = _FLEXIBLE
    RESPONSE_TYPE = _TopicIds
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _AskForIds(Request[_TopicIdsQuestion]):  # type: ignore[misc]  # as above
    """Asks about topics by name; makes none."""

    API_KEY = _METADATA

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics: list[tuple[bytes, str, dict[int, bytes]]] = [(_NOBODY, topic, {}) for topic in topics]

    def build(self, question: Any) -> Any:
        return question(self._topics, False, False, False, {})  # noqa: FBT003 - the order of the schema


class TopicIds:
    """The topics of one cluster, as one driver has seen them last.

    Attributes:
        note_limit: how long a commit's metadata may be, as far as is known.
    """

    def __init__(self) -> None:
        self.note_limit = NOTE_LIMIT
        self._known: dict[str, Book] = {}
        self._told = True

    async def look(self, ask: Asking, names: Iterable[str]) -> Mapping[str, Book]:
        """The books of those topics that exist and may be seen; a topic without an id has an empty one.

        Args:
            ask: see `Asking`; raises what it likes.
            names: of topics.
        """
        wanted = sorted(set(names))
        if not wanted:
            return {}
        if self._told:
            try:
                answer = await ask(_AskForIds(wanted))
            except NotImplementedError:  # aiokafka's way to say that the broker knows no such version
                self._told = False
                log.warning(
                    "these brokers tell no topic ids (Kafka 2.8 and newer do): a topic that is deleted and made again "
                    "is not noticed; stop the workers first, and delete the group's offsets"
                )
            else:
                return _books_in(answer)
        return dict.fromkeys(wanted, Book())

    def differs(self, topic: str, book: Book) -> bool:
        """Note what a topic is; whether it was another one when it was last seen."""
        before = self._known.get(topic, book)
        self._known[topic] = book
        return bool(before.topic_id and book.topic_id and before != book)

    def shorten_notes(self) -> bool:
        """Brokers refused a note as too long; whether a shorter one may do. Says so once."""
        if not self.note_limit:
            return False
        if self.note_limit == NOTE_LIMIT:
            log.warning(
                "the brokers take no long notes with a commit (offset.metadata.max.bytes): work that is done out of "
                "order may be done again after a restart or a rebalance"
            )
        self.note_limit = self.note_limit // 2 if self.note_limit > _SHORTEST_NOTE else 0
        return True


def _books_in(answer: Any) -> Mapping[str, Book]:
    cluster = answer.cluster_id
    return {
        name: Book.of("" if topic_id == _NOBODY else urlsafe_b64encode(topic_id).decode().rstrip("="), cluster)
        for code, name, topic_id, *_ in answer.topics
        if not code
    }
