"""What an operator does to a broker while its workers run: removes, makes anew, empties and throttles.

Each is done with the broker's own client, past the worker, and says what it destroys: nobody can handle an event that
was removed before it was read, but everything else must go on as if nothing had been.
"""

import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import anyio

from tests.drivers.kafka_tools import admin_of, make_topic_again
from tests.lab.base import Broker
from tests.lab.kafka import Kafka
from tests.lab.nats import Nats

PATIENCE_S = 20.0
"""A topic that is being deleted keeps its name for a moment."""
THROTTLED_S = 3.0
FORGOTTEN_S = 60.0


class Operation(NamedTuple):
    """One thing that an operator does.

    Attributes:
        name: for people.
        act: does it, and returns when it is done.
        destroys: what is in the channel is gone.
        forgets_s: what was done within so long before may be done again: a place that is lost is found again at the
            first event that was not done, and one that kills its process is not done for a while.
    """

    name: str
    act: Callable[[], None]
    destroys: bool = False
    forgets_s: float = 0.0


def operations(broker: Broker | None, folder: Path, name: str) -> Sequence[Operation]:
    """What an operator can do to this broker.

    Args:
        broker: which; None: the embedded one.
        folder: the worker's.
        name: of the worker, which its channels and groups begin with.
    """
    if broker is None:
        return [Operation("replace the file", lambda: _replace_file(folder / "var" / "hexa.db"), destroys=True)]
    kind = str(broker).rstrip("0123456789")
    return {"kafka": _on_kafka, "nats": _on_nats, "pulsar": _on_pulsar}[kind](broker, name)


def _replace_file(path: Path) -> None:
    """As ``mv``: whoever has it open keeps the old one, and the next one to look finds none."""
    path.rename(path.with_name(f"{path.name}.{time.monotonic_ns()}"))


def _patiently(act: Callable[[], None]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            act()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


# -- Kafka


def _on_kafka(broker: Broker, name: str) -> Sequence[Operation]:
    assert isinstance(broker, Kafka)
    topic = f"{name}.jobs"
    address = broker.address

    def run(act: Callable[..., Awaitable[None]]) -> Callable[[], None]:
        return lambda: anyio.run(act, address, topic)

    return [
        Operation("make the topic anew", run(_recreate_topic), destroys=True),
        Operation("throttle producers", lambda: _throttle(broker)),
        Operation("delete all records", run(_delete_records), destroys=True),
    ]


async def _recreate_topic(address: str, topic: str) -> None:
    await make_topic_again(address, topic, await _partitions(address, topic))


async def _partitions(address: str, topic: str) -> int:
    async with admin_of(address) as admin:
        return len((await admin.describe_topics([topic]))[0]["partitions"])


def _throttle(broker: Kafka) -> None:
    """A quota for every client without one of its own, for a while."""
    broker.throttle_producers(20_000)
    try:
        time.sleep(THROTTLED_S)
    finally:
        broker.throttle_producers(None)


async def _delete_records(address: str, topic: str) -> None:
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.admin.records_to_delete import RecordsToDelete

    places = [TopicPartition(topic, number) for number in range(await _partitions(address, topic))]
    consumer = AIOKafkaConsumer(bootstrap_servers=address)
    await consumer.start()
    ends = await consumer.end_offsets(places)
    await consumer.stop()
    async with admin_of(address) as admin:
        await admin.delete_records({place: RecordsToDelete(before_offset=end) for place, end in ends.items()})


# -- NATS


def _on_nats(broker: Broker, name: str) -> Sequence[Operation]:
    assert isinstance(broker, Nats)
    subject, kept = f"{name}.jobs", broker.streams_folder

    def run(act: Callable[..., Awaitable[None]]) -> Callable[[], None]:
        return lambda: anyio.run(act, broker.address, subject)

    return [
        Operation("delete a durable", run(_delete_durable), forgets_s=FORGOTTEN_S),
        Operation("make the stream anew", run(partial(_recreate_stream, kept)), destroys=True),
        Operation("purge the stream", run(_purge_stream), destroys=True),
    ]


@asynccontextmanager
async def _jetstream(address: str) -> AsyncIterator[Any]:
    import nats

    client = await nats.connect(address)
    try:
        yield client.jsm()
    finally:
        await client.close()


async def _delete_durable(address: str, subject: str) -> None:
    """The one of the subscription whose order is free."""
    async with _jetstream(address) as streams:
        stream = await streams.find_stream_name_by_subject(subject)
        durables = [one.name for one in await streams.consumers_info(stream)]
        await streams.delete_consumer(stream, next(one for one in durables if "work" in one))


async def _recreate_stream(kept: Path, address: str, subject: str) -> None:
    """Delete the stream and make it anew, until what the server has made is whole.

    It tells the readers of a deleted stream before it moves the folder away, then removes it in the background. A
    reader that makes the stream anew in between gets one whose folder is moved away and that stores nothing; while an
    earlier folder is still being removed the next one cannot be moved at all.
    """
    async with _jetstream(address) as streams:
        stream = await streams.find_stream_name_by_subject(subject)
        config = (await streams.stream_info(stream)).config
        leaving = kept / f".{stream}"
        with anyio.fail_after(PATIENCE_S):
            while True:
                await streams.delete_stream(stream)
                while leaving.exists():
                    await anyio.sleep(0.01)
                await streams.add_stream(config)
                if (kept / stream / "meta.inf").exists():
                    return


async def _purge_stream(address: str, subject: str) -> None:
    async with _jetstream(address) as streams:
        await streams.purge_stream(await streams.find_stream_name_by_subject(subject))


# -- Pulsar


def _on_pulsar(broker: Broker, name: str) -> Sequence[Operation]:
    topic = f"{broker.admin_address}/admin/v2/persistent/public/default/{name}.jobs"
    subscription = f"{topic}/subscription/{name}.work"
    return [
        Operation("unload the topic", lambda: _ask("PUT", f"{topic}/unload")),
        Operation("delete a subscription", lambda: _ask("DELETE", f"{subscription}?force=true"), forgets_s=FORGOTTEN_S),
        Operation("make the topic anew", lambda: _recreate_pulsar(topic), destroys=True),
    ]


def _recreate_pulsar(topic: str) -> None:
    _ask("DELETE", f"{topic}?force=true")
    _patiently(lambda: _ask("PUT", topic, tolerated=(409,)))


def _ask(method: str, url: str, tolerated: Sequence[int] = ()) -> None:
    request = urllib.request.Request(url, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            pass
    except HTTPError as error:
        if error.code not in tolerated:
            raise
