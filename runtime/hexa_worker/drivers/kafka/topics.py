"""Topics and groups through the admin protocol: what exists, creating what is missing, offsets, deleting."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidReplicationFactorError, LeaderNotAvailableError, TopicAlreadyExistsError, for_code
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata

from hexa_worker.drivers.kafka.client_internals import admin_sender, client_of, newest_version
from hexa_worker.drivers.kafka.connection import KafkaConnection, bounded, stop_client
from hexa_worker.drivers.kafka.errors import driver_error
from hexa_worker.drivers.kafka.progress import Book
from hexa_worker.drivers.kafka.rights import FETCH, LookAtGroup, LookAtTopics, rights_of
from hexa_worker.drivers.kafka.settings import NAMES, Settings
from hexa_worker.drivers.kafka.topic_ids import TopicIds
from hexa_worker.errors import DriverRejected, DriverUnavailable

T = TypeVar("T")
_NEW_TOPIC_POLL_S = 0.05
_AUTHORIZATION_FAILED = 29
_LEADERLESS = -1
_REPLICATION = InvalidReplicationFactorError.errno
_FENCED = "currently fenced"
"""What the brokers' error says when it is not the replication factor that is wrong."""


class TopicAdmin:
    """The admin side of one driver; connects when it is first asked.

    Args:
        connection: settings.

    Attributes:
        brokers: how many there were at the last look.
        untold: the topics whose partitions nobody could tell then, because they have no leader yet.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._client: AIOKafkaAdminClient | None = None
        self._lock = asyncio.Lock()
        self.brokers = 0
        self.untold: frozenset[str] = frozenset()

    async def open(self) -> None:
        """Connect. Raises DriverUnavailable or DriverRejected with the reason."""
        async with self._lock:
            if self._client is None:
                client = AIOKafkaAdminClient(**self._connection.settings())
                try:
                    await self._connection.start(client.start, client_of(client))
                except BaseException:
                    await stop_client(client.close, client_of(client))
                    raise
                self._client = client

    async def close(self) -> None:
        """Disconnect. Idempotent; never raises for a dead broker."""
        client, self._client = self._client, None
        if client is not None:
            await stop_client(client.close, client_of(client))

    async def _ask(self, doing: str, question: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
        """Ask; a client that could not answer is replaced at the next question, so that new addresses are found."""
        await self.open()
        client = self._client
        assert client is not None  # noqa: S101 - open() has just made it
        try:
            return await bounded(question(client), self._connection.timeout_s, doing)
        except DriverUnavailable:
            if self._client is client:
                await self.close()
            raise

    async def partitions(self, *, wait_leaders_of: Iterable[str] = (), hidden: Iterable[str] = ()) -> dict[str, int]:
        """Every topic that this login may see, with its number of partitions.

        Args:
            wait_leaders_of: come back only once each of these exists and can be written to.
            hidden: those of them that existed though we did not see them.
        """
        wanted = frozenset(wait_leaders_of)
        deadline = asyncio.get_running_loop().time() + self._connection.timeout_s / 2
        while True:
            answer = await self._ask("listing topics", lambda client: admin_sender(client)(MetadataRequest()))
            self.brokers = len(answer.brokers)
            found, leaderless, self.untold = _topics_in(answer)
            missing = wanted - found.keys() | wanted & leaderless
            if not missing:
                return found
            if asyncio.get_running_loop().time() > deadline:
                if missing & set(hidden):
                    raise DriverRejected(f"kafka: topic {min(missing)} exists, but this login may not see it")
                raise DriverUnavailable(f"kafka: no leader for topic {min(missing)}")
            await asyncio.sleep(_NEW_TOPIC_POLL_S)

    async def create(self, topics: Sequence[NewTopic]) -> frozenset[str]:
        """Create topics; one that exists by now is as good as made.

        Returns:
            The names of those that did not exist.

        Raises:
            DriverRejected: the broker refuses one, with its name and reason.
        """
        if not topics:
            return frozenset()
        found, _ = await self.look([topic.name for topic in topics])
        denied = sorted(name for name, one in found.items() if one["error_code"] == _AUTHORIZATION_FAILED)
        if denied:  # they may exist, or be made and never seen
            raise DriverRejected(f"kafka: this login has no rights on topic {', '.join(denied)}: grant them")
        answer = await self._created(topics)
        hidden: list[str] = []
        for name, code, *rest in answer.topic_errors:
            if code == TopicAlreadyExistsError.errno:
                hidden.append(name)
            elif code:
                error = for_code(code)(*rest[:1])
                raise driver_error(error, f"creating topic {name}") from error
        await self.partitions(wait_leaders_of=[topic.name for topic in topics], hidden=hidden)
        return frozenset(topic.name for topic in topics).difference(hidden)

    async def _created(self, topics: Sequence[NewTopic]) -> Any:
        """The cluster's answer to a request for topics, once it has a broker that could hold one.

        Brokers that have just started, or stood still, are fenced for a moment: that is no lack of brokers.
        """
        timeout_s = self._connection.timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s
        timeout_ms = round(timeout_s * 1000)
        while True:
            answer = await self._ask(
                "creating topics", lambda client: client.create_topics(topics, timeout_ms=timeout_ms)
            )
            fenced = [
                name for name, code, *rest in answer.topic_errors if code == _REPLICATION and _FENCED in str(rest)
            ]
            if not fenced:
                return answer
            if asyncio.get_running_loop().time() > deadline:
                raise DriverUnavailable(f"kafka: creating topic {min(fenced)}: all brokers are fenced")
            await asyncio.sleep(_NEW_TOPIC_POLL_S)

    async def group_offsets(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """What the group has committed, with the notes."""
        offsets: Mapping[TopicPartition, OffsetAndMetadata] = await self._ask(
            f"reading the progress of group {group}", lambda client: client.list_consumer_group_offsets(group)
        )
        return {place: committed for place, committed in offsets.items() if committed.offset >= 0}

    async def groups(self) -> Sequence[str]:
        """The names of all groups that this login may see."""
        found = await self._ask("listing groups", lambda client: client.list_consumer_groups())
        return sorted({name for name, *_ in found})

    async def books(self, books: TopicIds, names: Iterable[str]) -> Mapping[str, Book]:
        """Which topics these are now; those that do not exist are left out."""
        return await self._ask("asking for topic ids", lambda client: books.look(admin_sender(client), names))

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """Delete the oldest records of partitions: everything below the given offsets."""
        wanted = {place: RecordsToDelete(before_offset=offset) for place, offset in before.items()}
        await self._ask("deleting records", lambda client: client.delete_records(wanted))

    async def describe(self) -> Mapping[str, Any]:
        """The cluster as a whole."""
        found: Mapping[str, Any] = await self._ask("describing the cluster", lambda client: client.describe_cluster())
        return found

    async def look(self, names: Sequence[str]) -> tuple[Mapping[str, Any], frozenset[str]]:
        """What these topics are, by name, with the rights of this login; and its rights on the cluster."""
        answer = await self._ask("looking at topics", lambda client: admin_sender(client)(LookAtTopics(names)))
        found = answer.to_object()
        return {one["topic"]: one for one in found["topics"]}, rights_of(found["cluster_authorized_operations"])

    async def settings(self, names: Iterable[str]) -> dict[str, Settings]:
        """The settings of topics, by name; what is not there, or may not be seen by this login, has none."""
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(NAMES)) for name in names]
        if not wanted:
            return {}
        answers = await self._ask("looking at settings", lambda client: client.describe_configs(wanted))
        return {
            name: {entry[0]: entry[1] for entry in entries if entry[1] is not None}
            for answer in answers
            for code, _, _, name, entries in answer.resources
            if not code
        }

    async def group(self, group: str) -> Mapping[str, Any]:
        """What a consumer group is, with the rights of this login."""

        async def ask(client: AIOKafkaAdminClient) -> Any:
            return await admin_sender(client)(LookAtGroup(group), await client.find_coordinator(group))

        answer = await self._ask(f"looking at group {group}", ask)
        found: Mapping[str, Any] = answer.to_object()["groups"][0]
        return found

    async def protocol(self) -> str:
        """The newest fetch request that a broker takes: Kafka does not tell its version."""

        async def ask(client: AIOKafkaAdminClient) -> str:
            return f"fetch up to v{await newest_version(client_of(client), FETCH)}"

        return await self._ask("asking for the broker's protocol", ask)


def _topics_in(answer: Any) -> tuple[dict[str, int], set[str], frozenset[str]]:
    """Topics with their number of partitions, those with a partition that has no leader, and those yet untold."""
    found: dict[str, int] = {}
    leaderless: set[str] = set()
    untold: set[str] = set()
    for topic in answer.to_object()["topics"]:
        name, partitions = topic["topic"], topic["partitions"]
        if topic.get("error_code") == LeaderNotAvailableError.errno and not partitions:
            untold.add(name)
        if topic.get("error_code") == _AUTHORIZATION_FAILED or not partitions:
            continue
        found[name] = len(partitions)
        if any(partition["leader"] == _LEADERLESS for partition in partitions):
            leaderless.add(name)
    return found, leaderless, frozenset(untold)


def refuse_missing(options: Mapping[str, str]) -> DriverRejected:
    """The error for topics that do not exist and may not be made.

    Args:
        options: by topic, what in [broker] would allow it.
    """
    allowed = " and ".join(f"{option} = true" for option in sorted(set(options.values())))
    return DriverRejected(
        f"kafka: no such topic: {', '.join(sorted(options))} (make it, or set {allowed} in [broker]; "
        "this login may also lack the right to see it)"
    )
