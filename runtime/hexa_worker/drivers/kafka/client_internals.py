"""All that is private in aiokafka and used here, and why: nothing else in this package touches such a name.

`tests/unit/test_kafka_client_internals.py` lists these names, and says what the pinned release must have for them.
Numbers are those of aio-libs/aiokafka's issues.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

Send = Callable[..., Awaitable[Any]]
Heartbeat = Callable[[], Awaitable[bool]]
_FIRST_WITH_HEADERS = 2

# -- clients


def client_of(owner: AIOKafkaConsumer | AIOKafkaAdminClient) -> AIOKafkaClient:
    """What a consumer or an admin client talks to brokers with.

    It knows who leads what, and can be cut off: their own `stop` and `close` may wait indefinitely (#659, #1013).
    """
    return owner._client


def cut(client: AIOKafkaClient) -> None:
    """Close a client's connections and its metadata task at once, as the end of its process would (#659, #1013)."""
    if client._sync_task is not None:
        client._sync_task.cancel()
        client._sync_task = None
    if client._md_update_fut is not None:
        client._md_update_fut.cancel()  # who waits for fresh metadata would wait indefinitely
    close_connections(client)
    client._conns.clear()


def close_connections(client: AIOKafkaClient) -> None:
    """Close connections that may lead nowhere: a client keeps them until a request has timed out."""
    for connection in list(client._conns.values()):
        connection.close()


def make_no_topics(client: AIOKafkaClient) -> None:
    """Have brokers tell that a topic is not there, instead of making it with their own defaults.

    What is sent on a connection that was closed just now fails as the client expects it, or the heartbeat would end.

    A client asks for its topics now and then, also for those that somebody has deleted, and has no option for this.
    """
    connect = client._get_conn

    async def connected(*args: Any, **more: Any) -> Any:
        connection = await connect(*args, **more)
        if connection is not None and not hasattr(connection, "hexa_makes_no_topics"):
            connection.hexa_makes_no_topics = True
            connection.send = partial(_sent, connection.send)
        return connection

    client._get_conn = connected


def _sent(send: Callable[..., Any], request: Any, **more: Any) -> Any:
    if isinstance(request, MetadataRequest):
        request._allow_auto_topic_creation = False
    try:
        return send(request, **more)
    except RuntimeError as error:  # uvloop's for a connection that was closed just now; the client expects an OSError
        raise KafkaConnectionError(str(error)) from error


def ask_others(client: AIOKafkaClient, ask: Callable[[Any, Any], Awaitable[bool]]) -> None:
    """Have a client call ``ask(cluster, topics)`` when no broker that it knows answers.

    All may have come back under other addresses; it would try the old ones indefinitely (#456, #459).
    """
    update = client._metadata_update

    async def updated(cluster: Any, topics: Any) -> bool:
        return await update(cluster, topics) or await ask(cluster, topics)

    client._metadata_update = updated


async def newest_version(client: AIOKafkaClient, api_key: int) -> int:
    """The newest version of a request that a broker takes: only connections know what was agreed on."""
    await client.ready(client.get_random_node())
    connection = next(iter(client._conns.values()))
    newest: int = connection._versions[api_key][1]
    return newest


def admin_sender(admin: AIOKafkaAdminClient) -> Send:
    """Sends a request to any broker, or to the one with the given id, where the admin client has no method for it."""
    send: Send = admin._send_request
    return send


# -- consumers


def subscription_of(consumer: AIOKafkaConsumer) -> Any:
    """What a consumer reads, how far it is, and whether that is just being changed: all without waiting."""
    return consumer._subscription


def coordinator_of(consumer: AIOKafkaConsumer) -> Any:
    """A started consumer's part in its group: who it is there, and what the group's broker has answered (#1154)."""
    return consumer._coordinator


def coordinator_sender(consumer: AIOKafkaConsumer) -> Send:
    """Sends a request to the group's broker, once: the public `commit` tries again indefinitely (#875)."""
    send: Send = consumer._coordinator._send_req
    return send


def replace_heartbeat(consumer: AIOKafkaConsumer, heartbeat: Heartbeat) -> Heartbeat:
    """Have a started consumer call `heartbeat`; returns its own, for that to call.

    Nothing public tells whether heartbeats are answered (#1040).
    """
    coordinator = consumer._coordinator
    own: Heartbeat = coordinator._do_heartbeat
    coordinator._do_heartbeat = heartbeat
    return own


def dead_task(consumer: AIOKafkaConsumer) -> str | None:
    """Which of a started consumer's own tasks has ended, if any: nothing would ever come again (#1154, #376)."""
    if consumer._fetcher._fetch_task.done():
        return "fetcher"
    if consumer._coordinator._coordination_task.done():
        return "coordinator"
    return None


def arrivals(consumer: AIOKafkaConsumer) -> Callable[[], asyncio.Future[None]]:
    """Makes futures that are done when a fetch has brought records, or the coordinator an error.

    The public `getmany` must not be cancelled while it waits, and there are other things to wait for, too.
    """
    make: Callable[[], asyncio.Future[None]] = consumer._fetcher._create_fetch_waiter
    return make


def hold_fetches(consumer: AIOKafkaConsumer, seconds: float) -> None:
    """Let brokers hold each fetch from now on for so long while there is nothing to answer it with."""
    consumer._fetcher._fetch_max_wait_ms = round(seconds * 1000)


def end_at_once(consumer: AIOKafkaConsumer) -> None:
    """End everything and say goodbye to nobody, as the death of the process would (#659, #773)."""
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    consumer._closed = True
    tasks = [
        coordinator._coordination_task,
        coordinator._heartbeat_task,
        coordinator._commit_refresh_task,
        fetcher._fetch_task,
        *fetcher._pending_tasks,
    ]
    if not coordinator._closing.done():
        coordinator._closing.set_result(None)
    for task in tasks:
        if task is not None and not task.done():
            task.cancel()
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    with contextlib.suppress(RuntimeError):
        cut(consumer._client)


# -- what a consumer reads


def refused(consumer: AIOKafkaConsumer) -> TopicPartition | None:
    """The partition whose records could not be read to their end: what `getmany` raises does not name it."""
    for place, result in consumer._fetcher._records.items():
        records = result._partition_records if isinstance(result, FetchResult) else None
        iterator = None if records is None else records._records_iterator
        if iterator is not None and iterator.gi_frame is None:
            return place
    return None


def parse_with(consumer: AIOKafkaConsumer, parser: Callable[[bytes], Any]) -> None:
    """Have a started consumer read what it fetches from now on with `parser`, which makes `MemoryRecords` or the like.

    aiokafka finds its parser in a global of the fetcher's module, for all consumers of the process: this consumer gets
    the function that looks there with globals of its own.
    """
    common, fetcher = Fetcher._proc_fetch_request, consumer._fetcher
    own = FunctionType(common.__code__, {**common.__globals__, "MemoryRecords": parser}, common.__name__)
    fetcher._proc_fetch_request = MethodType(own, fetcher)


class LenientRecords(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka is not typed
    """Reads what `MemoryRecords` reads, and shows bytes of header names that are not UTF-8 as escapes."""

    def next_batch(self) -> Any:
        """See `MemoryRecords`."""
        part = self._next_slice
        if part is None or len(part) < self.MIN_SLICE or part[self.MAGIC_OFFSET] < _FIRST_WITH_HEADERS:
            return super().next_batch()
        self._cache_next()
        return _LenientBatch(part)


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka is not typed
    def _maybe_uncompress(self) -> None:
        if not self._decompressed:
            super()._maybe_uncompress()
            self._buffer: bytearray = _Escaping(self._buffer)


class _Escaping(bytearray):
    """Bytes whose slices decode whatever they hold."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Escaping(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        del errors
        return super().decode(encoding, "backslashreplace")


# -- producing


def encoded(builder: BatchBuilder, producer_id: int, sequence: int) -> bytes:
    """A finished batch as a producer's, beginning with that number: only aiokafka's own producer numbers batches."""
    builder._set_producer_state(producer_id, 0, sequence)
    return bytes(builder._build())
