"""The producing client of one driver: takes finished batches to the leaders of their partitions, tells their answers.

It knows no messages, and sends nothing twice: what an answer means, and whether a batch goes again, its queue decides.

One request at a time is on its way to a node; while it is, what comes for that node gathers for the next one. A node
that slows us down (a quota) answers at once and then reads nothing for a while (KIP-219): until that is over nothing is
sent to it, or whoever waits for an answer would believe it dead.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import msgspec
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceRequest_v8
from aiokafka.protocol.transaction import InitProducerIdRequest

from hexa_worker.drivers.kafka.client_internals import cut
from hexa_worker.drivers.kafka.connection import STOP_S, KafkaConnection, bounded, stop_client
from hexa_worker.drivers.kafka.errors import driver_error, error_of
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

log = logging.getLogger("hexa_worker.kafka")
REQUEST_BYTES = 16 * 1024 * 1024
"""No batch is added to a request that is as large as this."""
SAID_FOR_S = 600.0
"""That a quota slows us down is said again after so long without it."""
_ALL_IN_SYNC = -1
_LOADING_S = 0.1


class Answer(msgspec.Struct, frozen=True):
    """What a node said of a batch.

    Attributes:
        code: Kafka's error code; 0: stored.
        offset: of its first record, if it is stored.
        refused: the places in it of the records that are at fault, where the node tells.
        reason: the node's own words.
    """

    code: int
    offset: int = -1
    refused: tuple[int, ...] = ()
    reason: str = ""


class Sending:
    """A batch on its way.

    Attributes:
        place: its partition.
        data: what is sent.
        answer: done once there is one; a DriverError: there is none.
        left: it was, or may have been, handed to the node.
    """

    __slots__ = ("answer", "data", "left", "place")

    def __init__(self, place: TopicPartition, data: bytes) -> None:
        self.place = place
        self.data = data
        self.left = False
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def fail(self, error: DriverError) -> None:
        """It has no answer, because of `error`."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # whoever gave it up does not look


class _Node:
    """What waits for one node."""

    __slots__ = ("free_at", "task", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[TopicPartition, Sending] = {}
        self.free_at = float("-inf")
        self.task: asyncio.Task[None] | None = None


class _Produce(Request[ProduceRequest_v7 | ProduceRequest_v8]):  # type: ignore[misc]  # aiokafka is not typed
    """aiokafka's own stops at the version before the one that tells which records are at fault."""

    API_KEY = 0

    def __init__(self, timeout_ms: int, topics: list[tuple[str, list[tuple[int, bytes]]]]) -> None:
        self._timeout_ms = timeout_ms
        self._topics = topics

    def build(self, question: Any) -> Any:
        return question(None, _ALL_IN_SYNC, self._timeout_ms, self._topics)


class Producer:
    """One driver's producing client; connects when it is first used.

    Args:
        connection: settings.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._client: AIOKafkaClient | None = None
        self._id: int | None = None
        self._starting = asyncio.Lock()
        self._identifying = asyncio.Lock()
        self._nodes: dict[int, _Node] = {}
        self._throttled_at = float("-inf")
        self._closed = False

    async def identified(self, *, not_as: int | None) -> int:
        """The producer id, by which brokers know what they have stored already. Connects where that is needed.

        Args:
            not_as: an id that is of no use any more.

        Raises:
            DriverUnavailable, DriverRejected: with the reason.
        """
        async with self._identifying:
            if self._id is None or self._id == not_as:
                self._id = await self._new_id()
            return self._id

    async def _new_id(self) -> int:
        client = await self._connected()
        timeout_s, doing = self._connection.timeout_s, "asking for a producer id"
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            question = client.send(client.get_random_node(), InitProducerIdRequest(None, 0))
            answer = await bounded(question, timeout_s, doing)
            if not answer.error_code:
                return int(answer.producer_id)
            error = error_of(answer.error_code)
            failure = driver_error(error, doing)
            if isinstance(failure, DriverRejected) or asyncio.get_running_loop().time() > deadline:
                raise failure from error
            await asyncio.sleep(_LOADING_S)  # a broker that has just started is reading its own notes

    async def _connected(self) -> AIOKafkaClient:
        async with self._starting:
            if self._closed:
                raise DriverUnavailable("kafka: the driver is closed")
            if self._client is None:
                client = AIOKafkaClient(**self._connection.settings())
                try:
                    await self._connection.start(client.bootstrap, client)
                except BaseException:
                    cut(client)
                    raise
                self._client = client
            return self._client

    async def leader(self, place: TopicPartition, seconds: float, *, moved: bool) -> int | None:
        """The node that leads a partition; None: there is no such partition.

        Args:
            place: the partition.
            seconds: how long it may take.
            moved: what is known of it has turned out to be wrong.

        Raises:
            DriverUnavailable: no broker answers, or it has no leader.
            DriverRejected: this login may not see the topic.
        """
        client = await self._connected()
        known: int | None = client.cluster.leader_for_partition(place)
        if known is None or known < 0 or moved:
            client.add_topic(place.topic)
            await self._look_again(client, seconds)
            known = client.cluster.leader_for_partition(place)
        if known is None:  # the look under way may have begun before the topic was added
            await self._look_again(client, seconds)
            known = client.cluster.leader_for_partition(place)
        if known is None and place.topic in client.cluster.unauthorized_topics:
            raise DriverRejected(f"kafka: this login has no rights on topic {place.topic}")
        if known is not None and known < 0:
            raise DriverUnavailable(f"kafka: no leader for {place.topic}-{place.partition}")
        return known

    async def _look_again(self, client: AIOKafkaClient, seconds: float) -> None:
        """Ask who leads what; a client that finds nobody to ask is given up, so that `servers` are asked again."""
        try:
            found = await bounded(client.force_metadata_update(), seconds, "looking for leaders")
        except DriverUnavailable:
            found = False
        if not found:
            self._drop(client)
            raise DriverUnavailable("kafka: no broker answers")

    def submit(self, node: int, place: TopicPartition, data: bytes) -> Sending:
        """Send a batch to a node as soon as that is free."""
        sending = Sending(place, data)
        line = self._nodes.get(node)
        if line is None:
            line = self._nodes[node] = _Node()
        line.waiting[place] = sending
        if line.task is None:
            line.task = asyncio.ensure_future(self._empty(node, line))
        return sending

    def withdraw(self, node: int, sending: Sending) -> bool:
        """Take back what has not left yet; returns whether that was so."""
        waiting = self._nodes[node].waiting
        if waiting.get(sending.place) is not sending:
            return False
        del waiting[sending.place]
        return True

    def free_at(self, node: int) -> float:
        """When (by the loop's clock) a node that slows us down reads again."""
        return self._nodes[node].free_at

    async def _empty(self, number: int, node: _Node) -> None:
        now = asyncio.get_running_loop().time
        try:
            while node.waiting:
                pause_s = node.free_at - now()
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                else:
                    await self._request(number, node, _taken(node.waiting))
        finally:
            node.task = None
            for sending in node.waiting.values():
                sending.fail(DriverUnavailable("kafka: publishing was given up"))
            node.waiting.clear()

    async def _request(self, number: int, node: _Node, sendings: dict[TopicPartition, Sending]) -> None:
        """Send one request, and hand its answers over."""
        timeout_s = self._connection.timeout_s
        try:
            client = await self._reached(number)
            for sending in sendings.values():
                sending.left = True
            request = _Produce(round(timeout_s * 1000), _by_topic(sendings.values()))
            answer = await bounded(client.send(number, request), timeout_s + STOP_S, f"publishing to broker {number}")
            self._note_throttle(node, answer.throttle_time_ms / 1000)
            for topic, partitions in answer.topics:
                for partition, code, offset, _, _, *more in partitions:
                    found = sendings.pop(TopicPartition(topic, partition), None)
                    if found is not None and not found.answer.done():
                        found.answer.set_result(_answer(code, offset, *more))
        except DriverError as error:
            for sending in sendings.values():
                sending.fail(error)
        finally:
            for sending in sendings.values():
                sending.fail(DriverUnavailable("kafka: the broker left a batch out of its answer"))

    async def _reached(self, number: int) -> AIOKafkaClient:
        client = await self._connected()
        doing = f"connecting to broker {number}"
        if not await bounded(client.ready(number), self._connection.timeout_s, doing):
            raise DriverUnavailable(f"kafka: broker {number} cannot be reached")
        return client

    def _note_throttle(self, node: _Node, seconds: float) -> None:
        if seconds <= 0:
            return
        now = asyncio.get_running_loop().time()
        node.free_at = now + seconds
        if now - self._throttled_at > SAID_FOR_S:
            log.warning(
                "kafka: the brokers slow down what this login publishes, for %.1f s at first: it is over its quota "
                "(producer_byte_rate of its user or client id); everything waits for that",
                seconds,
            )
        self._throttled_at = node.free_at

    def _drop(self, client: AIOKafkaClient) -> None:
        if self._client is client:
            self._client = None
        cut(client)

    async def close(self) -> None:
        """Disconnect. What has no answer gets none. Idempotent; never raises for a dead broker."""
        self._closed = True
        for node in self._nodes.values():
            if node.task is not None:
                node.task.cancel()
        client, self._client = self._client, None
        if client is not None:
            await stop_client(client.close, client)


def _taken(waiting: dict[TopicPartition, Sending]) -> dict[TopicPartition, Sending]:
    """Take as much as fits into a request."""
    taken: dict[TopicPartition, Sending] = {}
    size = 0
    while waiting and size < REQUEST_BYTES:
        place = next(iter(waiting))
        taken[place] = sending = waiting.pop(place)
        size += len(sending.data)
    return taken


def _by_topic(sendings: Iterable[Sending]) -> list[tuple[str, list[tuple[int, bytes]]]]:
    topics: dict[str, list[tuple[int, bytes]]] = {}
    for sending in sendings:
        topics.setdefault(sending.place.topic, []).append((sending.place.partition, sending.data))
    return list(topics.items())


def _answer(code: int, offset: int, refused: Iterable[tuple[int, str]] = (), reason: str | None = None) -> Answer:
    if not code:
        return Answer(0, offset)
    faults = tuple(refused)
    words = next((words for _, words in faults if words), reason or "")
    return Answer(code, offset, tuple(place for place, _ in faults), words)
