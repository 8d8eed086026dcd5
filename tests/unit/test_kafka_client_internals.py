"""What of aiokafka is private and used all the same: a release that changes it is to fail here, by name."""

import ast
import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import GeneratorType, SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

from hexa_worker.drivers.kafka import client_internals
from tests.unit.unconnected_kafka import NOBODY, unconnected

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

SEEN = "0.14."
"""The releases that this was seen with."""
READ: dict[type, dict[str, type]] = {
    AIOKafkaClient: {"_sync_task": type(None), "_md_update_fut": type(None), "_conns": dict},
    AIOKafkaConnection: {"_versions": dict},
    AIOKafkaAdminClient: {"_client": AIOKafkaClient},
    AIOKafkaConsumer: {
        "_client": AIOKafkaClient,
        "_subscription": SubscriptionState,
        "_coordinator": GroupCoordinator,
        "_fetcher": Fetcher,
        "_closed": bool,
    },
    GroupCoordinator: {
        "_coordination_task": asyncio.Task,
        "_heartbeat_task": type(None),
        "_commit_refresh_task": type(None),
        "_closing": asyncio.Future,
    },
    Fetcher: {"_fetch_task": asyncio.Task, "_pending_tasks": set, "_fetch_max_wait_ms": int, "_records": dict},
    FetchResult: {"_partition_records": PartitionRecords},
    PartitionRecords: {"_records_iterator": GeneratorType},
    MetadataRequest: {"_allow_auto_topic_creation": type(None)},
    _MemoryRecordsPy: {"_next_slice": memoryview},
    _DefaultRecordBatchPy: {"_decompressed": bool, "_buffer": bytearray},
}
"""What is read or set, by its owner, and what it is at first."""
CALLED: dict[type, dict[str, list[str]]] = {
    AIOKafkaClient: {
        "_get_conn": ["node_id", "group", "no_hint"],
        "_metadata_update": ["cluster_metadata", "topics"],
    },
    AIOKafkaAdminClient: {"_send_request": ["request", "node_id"]},
    GroupCoordinator: {"_send_req": ["request"], "_do_heartbeat": []},
    Fetcher: {"_create_fetch_waiter": [], "_proc_fetch_request": ["assignment", "node_id", "request"]},
    BatchBuilder: {"_set_producer_state": ["producer_id", "producer_epoch", "base_sequence"], "_build": []},
    _MemoryRecordsPy: {"_cache_next": ["len_offset", "log_overhead"]},
    _DefaultRecordBatchPy: {"_maybe_uncompress": []},
}
"""What is called or replaced, with its parameters."""


def names_of(table: dict[type, dict[str, Any]]) -> list[tuple[type, str]]:
    return [(owner, name) for owner, names in table.items() for name in names]


def private_names(module: Path) -> Iterator[tuple[str, bool]]:
    """The private names that a module imports, or reads of objects; and whether that object is its own."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((name.name, False) for name in node.names if name.name.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            yield node.attr, isinstance(node.value, ast.Name) and node.value.id == "self"


OWN = Path(client_internals.__file__)


@pytest.fixture
async def consumer() -> AsyncIterator[AIOKafkaConsumer]:
    async with unconnected() as made:
        yield made


def batch_of_one() -> bytes:
    builder = BatchBuilder(1024, 0)
    builder.append(timestamp=1, key=None, value=b"x", headers=[("name", b"1")])
    return client_internals.encoded(builder, 7, 11)


def owners(consumer: AIOKafkaConsumer) -> dict[type, Any]:
    place = TopicPartition("t", 0)
    records = PartitionRecords(place, MemoryRecords(batch_of_one()), None, 0, None, None, True, 0)
    return {
        AIOKafkaClient: consumer._client,
        AIOKafkaConnection: AIOKafkaConnection("localhost", 1),
        AIOKafkaAdminClient: AIOKafkaAdminClient(bootstrap_servers=NOBODY),
        AIOKafkaConsumer: consumer,
        GroupCoordinator: consumer._coordinator,
        Fetcher: consumer._fetcher,
        FetchResult: FetchResult(place, assignment=None, partition_records=records, backoff=0),
        PartitionRecords: records,
        MetadataRequest: MetadataRequest(),
        _MemoryRecordsPy: _MemoryRecordsPy(batch_of_one()),
        _DefaultRecordBatchPy: _DefaultRecordBatchPy(batch_of_one()),
    }


async def test_the_release_is_one_that_this_was_seen_with() -> None:
    assert version("aiokafka").startswith(SEEN)


async def test_every_private_name_that_is_used_is_listed_here() -> None:
    classes = {_MemoryRecordsPy.__name__, _DefaultRecordBatchPy.__name__}
    listed = {name for _, name in names_of(READ) + names_of(CALLED)}
    assert {name for name, _ in private_names(OWN)} == listed | classes


async def test_no_other_module_of_the_driver_touches_a_private_name() -> None:
    touched = {
        (path.name, name)
        for path in OWN.parent.glob("*.py")
        for name, own in private_names(path)
        if path != OWN and not own
    }
    assert touched == set()


@pytest.mark.parametrize(("owner", "name"), names_of(READ))
async def test_what_is_read_or_set_is_there(consumer: AIOKafkaConsumer, owner: type, name: str) -> None:
    assert isinstance(getattr(owners(consumer)[owner], name), READ[owner][name])


@pytest.mark.parametrize(("owner", "name"), names_of(CALLED))
async def test_what_is_called_takes_what_it_is_given(owner: type, name: str) -> None:
    assert [*inspect.signature(getattr(owner, name)).parameters] == ["self", *CALLED[owner][name]]


@pytest.mark.parametrize(
    ("user", "use"),
    [
        (AIOKafkaClient.ready, "self._get_conn("),
        (AIOKafkaClient._md_synchronizer, "self._metadata_update("),
        (GroupCoordinator._heartbeat_routine, "self._do_heartbeat("),
        (Fetcher._get_actions_per_node, "self._fetch_max_wait_ms"),
        (Fetcher._fetch_requests_routine, "self._proc_fetch_request("),
        (Fetcher._proc_fetch_request, "self._client.send("),
        (MetadataRequest.build, "self._allow_auto_topic_creation"),
    ],
)
async def test_what_is_replaced_or_set_is_what_the_library_uses(user: Callable[..., Any], use: str) -> None:
    assert use in inspect.getsource(user)


async def test_the_fetcher_finds_its_parser_in_its_globals() -> None:
    code = Fetcher._proc_fetch_request.__code__
    assert "MemoryRecords" in code.co_names
    assert code.co_freevars == ()


async def test_a_client_asks_for_no_topics_to_be_made() -> None:
    class Connection:
        def send(self, request: MetadataRequest) -> bool | None:
            allowed: bool | None = request._allow_auto_topic_creation
            return allowed

    connection = Connection()
    client = AIOKafkaClient(bootstrap_servers=NOBODY)

    async def connect(_node: int) -> Connection:
        return connection

    client._get_conn = connect
    client_internals.make_no_topics(client)
    for _ in range(2):
        assert (await client._get_conn(1)).send(MetadataRequest()) is False


async def test_what_is_sent_on_a_connection_that_was_closed_just_now_fails_as_the_client_expects() -> None:
    def send(_request: Any) -> Any:
        raise RuntimeError("the handler is closed")

    async def connect(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(send=send)

    client = AIOKafkaClient(bootstrap_servers=NOBODY)
    client._get_conn = connect
    client_internals.make_no_topics(client)
    with pytest.raises(KafkaConnectionError, match="the handler is closed"):
        (await client._get_conn(1)).send(MetadataRequest())


async def test_others_are_asked_when_no_broker_answers() -> None:
    asked: list[Any] = []
    client = AIOKafkaClient(bootstrap_servers=NOBODY)

    async def ask(*question: Any) -> bool:
        asked.append(question)
        return True

    client_internals.ask_others(client, ask)
    assert await client._metadata_update(client.cluster, ["t"])
    assert asked == [(client.cluster, ["t"])]


async def test_heartbeats_are_ours_and_can_be_the_librarys(consumer: AIOKafkaConsumer) -> None:
    async def ours() -> bool:
        return True

    own = client_internals.replace_heartbeat(consumer, ours)
    assert await consumer._coordinator._do_heartbeat()
    assert own == GroupCoordinator._do_heartbeat.__get__(consumer._coordinator)


async def test_an_arrival_is_told_when_records_come_and_may_be_cancelled(consumer: AIOKafkaConsumer) -> None:
    arrival = client_internals.arrivals(consumer)
    told, cancelled = arrival(), arrival()
    cancelled.cancel()
    consumer._fetcher._notify(told)
    await asyncio.wait([told, cancelled])
    assert (told.done(), consumer._fetcher._fetch_waiters) == (True, set())


@pytest.mark.parametrize("dead", ["fetcher", "coordinator"])
async def test_a_dead_task_is_named(consumer: AIOKafkaConsumer, dead: str) -> None:
    assert client_internals.dead_task(consumer) is None
    tasks = {"fetcher": consumer._fetcher._fetch_task, "coordinator": consumer._coordinator._coordination_task}
    tasks[dead].cancel()
    await asyncio.wait([tasks[dead]])
    assert client_internals.dead_task(consumer) == dead


async def test_the_end_leaves_no_task_of_a_consumer() -> None:
    before = asyncio.all_tasks()
    async with unconnected():
        tasks = asyncio.all_tasks() - before
        assert tasks
    _, left = await asyncio.wait(tasks, timeout=10)
    assert left == set()


async def test_a_batch_carries_its_producer_and_its_number() -> None:
    batch = _DefaultRecordBatchPy(batch_of_one())
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (7, 0, 11)
