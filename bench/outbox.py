"""The outbox: how fast a backlog is relayed beside a loop that keeps no books, and how late a commit is heard of."""

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import psycopg

from bench import inbox
from bench.figures import Figure, milliseconds, rate
from hexa_worker import Event
from hexa_worker.config.load import load_config
from hexa_worker.config.model import Config
from hexa_worker.core.message import Message
from hexa_worker.drivers.opening import make_plain_driver, opened
from hexa_worker.outbox import Outbox
from hexa_worker.outbox.inbox import HandlerOutbox
from hexa_worker.outbox.initialising import initialise
from hexa_worker.outbox.opening import make_store, outbox_options
from hexa_worker.outbox.records import columns
from hexa_worker.outbox.relay import Relay, until_sent
from hexa_worker.subscriptions.transactions import Block

COUNT = 1_000_000
SMALL = 300_000
KEYS = 1_000
PAYLOAD = b'{"id":12345,"customer":"customer-123","amount":99.5,"text":"' + b"x" * 138 + b'"}'
HEADERS = columns("", Message(channel="c", payload=b"", headers=(("hexa-event-id", b"0" * 32),)))[3]
LATENCIES = 300
EMITS = 3_000
TOML = """
[worker]
name = "bench"
handlers = ["none"]
[broker]
{broker}
[outbox]
url = "{url}"
"""


def config_of(folder: Path, broker: str, url: str) -> Config:
    (folder / "worker.toml").write_text(TOML.format(broker=broker, url=url))
    config = load_config(folder / "worker.toml")
    initialise(config)
    return config


def fill_postgres(url: str, channel: str, count: int) -> None:
    """`count` events in one transaction, 200 bytes each."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO hexa_outbox (event_id, channel, key, headers, payload, timestamp_ms)"
            " SELECT 'e' || n, %s, convert_to('k' || n %% %s, 'UTF8'), %s, %s, 0 FROM generate_series(1, %s) AS n",
            (channel, KEYS, HEADERS, PAYLOAD, count),
        )
        connection.commit()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def fill_sqlite(path: Path, channel: str, count: int) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executemany(
            "INSERT INTO hexa_outbox (event_id, channel, key, headers, payload, timestamp_ms) VALUES (?,?,?,?,?,0)",
            ((f"e{n}", channel, b"k%d" % (n % KEYS), HEADERS, PAYLOAD) for n in range(count)),
        )


async def relay_all(config: Config) -> float:
    """Seconds from connecting to the end of all that is there."""
    begin = time.perf_counter()
    async with opened(make_plain_driver(config)) as driver, anyio.create_task_group() as group:
        relay = Relay(make_store(config), driver, outbox_options(config))
        group.start_soon(relay.run)
        await until_sent(relay)
        await relay.finish(10)
    return time.perf_counter() - begin


def raw_kafka(url: str, address: str, channel: str, count: int) -> float:
    """A server-side cursor and aiokafka's own batches; nothing is noted."""
    return asyncio.run(_raw_kafka(url, address, channel, count))


async def _raw_kafka(url: str, address: str, channel: str, count: int) -> float:
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", linger_ms=5, max_batch_size=512 * 1024)
    await producer.start()
    begin = time.perf_counter()
    with psycopg.connect(url) as connection, connection.cursor("raw", binary=True) as cursor:
        cursor.itersize = 2_000
        cursor.execute("SELECT key, payload FROM hexa_outbox ORDER BY id LIMIT %s", (count,))
        while rows := cursor.fetchmany(2_000):
            await asyncio.gather(*[await producer.send(channel, payload, key) for key, payload in rows])
    took = time.perf_counter() - begin
    await producer.stop()
    return took


def postgres_url(address: str, name: str) -> str:
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name}")
    return f"{address.rpartition('/')[0]}/{name}"


async def make_channel(config: Config, channel: str) -> None:
    async with opened(make_plain_driver(config)) as driver:
        await driver.publish([Message(channel=channel, payload=b"{}")])


def to_kafka(postgres: str, kafka: str, folder: Path) -> list[Figure]:
    url = postgres_url(postgres, "bench_kafka")
    broker = f'driver = "kafka"\nservers = ["{kafka}"]\ncreate_channels = true\npartitions = 12'
    config = config_of(folder, broker, url)
    anyio.run(make_channel, config, "outbox")
    fill_postgres(url, "outbox", COUNT)
    ours = anyio.run(relay_all, config)
    raw = raw_kafka(url, kafka, "outbox", COUNT)
    print(f"{COUNT / ours:,.0f}/s, raw {COUNT / raw:,.0f}/s", flush=True)
    figures = [_rates("PostgreSQL → Kafka, 1,000,000 pending, ordered by key", COUNT, ours, raw, 25_000)]
    fill_postgres(url, "outbox", SMALL)
    plain = anyio.run(relay_all, config)
    with psycopg.connect(url) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM pg_class")
        fill_postgres(url, "outbox", SMALL)
        held = anyio.run(relay_all, config)
        dead = holder.execute("SELECT 1").fetchone()
    del dead
    figures.append(
        Figure(
            "the same while another session holds a snapshot, beside no such session",
            rate(SMALL, held),
            rate(SMALL, plain),
            plain / held,
            "≥ 0.9",
            plain / held >= 0.9,
        )
    )
    return figures


def to_nats(postgres: str, nats: str, folder: Path) -> Figure:
    url = postgres_url(postgres, "bench_nats")
    broker = f'driver = "nats"\nservers = ["{nats}"]\n[[broker.streams]]\nname = "outbox"\nsubjects = ["outbox.>"]'
    config = config_of(folder, broker, url)
    fill_postgres(url, "outbox.events", SMALL)
    ours = anyio.run(relay_all, config)
    return _rates("PostgreSQL → NATS, 300,000 pending", SMALL, ours, None, 20_000)


def to_embedded(folder: Path) -> Figure:
    config = config_of(folder, 'driver = "embedded"\npath = "hexa.db"', "sqlite:///shop.db")
    anyio.run(make_channel, config, "outbox")
    fill_sqlite(folder / "shop.db", "outbox", SMALL)
    ours = anyio.run(relay_all, config)
    return _rates("SQLite → embedded, 300,000 pending", SMALL, ours, None, 60_000)


def _rates(name: str, count: int, ours: float, raw: float | None, bar: int) -> Figure:
    met = count / ours >= bar and (raw is None or raw / ours >= 0.5)
    text = f"≥ {bar:,}/s" + ("" if raw is None else ", ≥ 0.5")
    return Figure(
        name, rate(count, ours), "" if raw is None else rate(count, raw), None if raw is None else raw / ours, text, met
    )


def lateness(name: str, config: Config, connect: Callable[[], Any]) -> Figure:
    """From a commit to the record in the hands of a subscriber, one at a time."""
    delays = sorted(anyio.run(_lateness, config, connect))
    half, worst = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    return Figure(
        f"commit → receive when idle, {name}",
        f"p50 {milliseconds(half)}, p99 {milliseconds(worst)}",
        bar="p50 ≤ 10 ms, p99 ≤ 50 ms",
        met=half <= 0.010 and worst <= 0.050,
    )


async def _lateness(config: Config, connect: Callable[[], Any]) -> list[float]:
    from hexa_worker.drivers.base import SubscriptionSpec

    outbox = Outbox.from_config(config.path)
    spec = SubscriptionSpec(action="a", group="a", channels=("late",), retry_base="a", retry_count=1)
    delays: list[float] = []
    async with opened(make_plain_driver(config)) as driver, anyio.create_task_group() as group:
        relay = Relay(make_store(config), driver, outbox_options(config))
        group.start_soon(relay.run)
        source = await driver.subscribe(spec)
        connection = connect()
        while relay.state != "leading":
            await anyio.sleep(0.01)
        for number in range(LATENCIES):
            await anyio.sleep(0.02)
            outbox.emit_sync(connection, Event(channel="late", payload=number))
            connection.commit()
            begin = time.perf_counter()
            await source.receive(1, 10_000)
            delays.append(time.perf_counter() - begin)
        source.stop()
        await source.close()
        await relay.finish(5)
    connection.close()
    return delays


def writing(postgres: str) -> Figure:
    """What one event adds to a transaction that writes a row."""
    url = postgres_url(postgres, "bench_emit")
    with tempfile.TemporaryDirectory() as name:
        config = config_of(Path(name), 'driver = "embedded"\npath = "hexa.db"', url)
        outbox = Outbox.from_config(config.path)
    event = Event(channel="orders", payload=msgspec.json.decode(PAYLOAD), key="k")
    with psycopg.connect(url) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("CREATE TABLE orders (id int, text text)")
        connection.commit()

        def run(*, emit: bool) -> float:
            begin = time.perf_counter()
            for number in range(EMITS):
                connection.execute("INSERT INTO orders VALUES (%s, 'x')", (number,))
                if emit:
                    outbox.emit_sync(connection, event)
                connection.commit()
            return (time.perf_counter() - begin) / EMITS

        run(emit=True)
        alone, both = run(emit=False), run(emit=True)
    added = (both - alone) * 1e6
    return Figure(
        "one event in a transaction that writes a row, PostgreSQL",
        f"+{added:.0f} µs",
        f"{alone * 1e6:.0f} µs without it",
        bar="≤ 150 µs",
        met=added <= 150,
    )


def claiming(postgres: str) -> Figure:
    """What `ctx.transaction` adds to the handler's own transaction."""
    url = postgres_url(postgres, "bench_inbox")
    with tempfile.TemporaryDirectory() as name:
        config = config_of(Path(name), 'driver = "embedded"\npath = "hexa.db"', url)
        handler_outbox = HandlerOutbox(Outbox.from_config(config.path))
    with psycopg.connect(url) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("CREATE TABLE orders (id int, text text)")
        connection.commit()

        def alone(number: int) -> None:
            with connection.transaction():
                connection.execute("INSERT INTO orders VALUES (%s, 'x')", (number,))

        def claimed(number: int) -> None:
            with handler_outbox.transaction(connection, "do", f"event-{number}", Block()):
                connection.execute("INSERT INTO orders VALUES (%s, 'x')", (number,))

        def statement(number: int) -> None:
            connection.execute("SELECT %s::int", (number,))

        took = []
        for call in (alone, claimed, statement):
            begin = time.perf_counter()
            for number in range(EMITS):
                call(number)
            took.append((time.perf_counter() - begin) / EMITS * 1e6)
    plain, both, trip = took
    return Figure(
        "ctx.transaction around a row, beside the same transaction without it, PostgreSQL",
        f"+{both - plain:.0f} µs",
        f"{plain:.0f} µs without it; a statement's round trip {trip:.0f} µs",
    )


def beside_redis(postgres: str, redis: str) -> list[Figure]:
    """See `bench.inbox`."""
    url = postgres_url(postgres, "bench_beside")
    with tempfile.TemporaryDirectory() as name:
        config_of(Path(name), 'driver = "embedded"\npath = "hexa.db"', url)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE orders (id int, text text)")
    return inbox.measure(url, redis)


def measure(postgres: str, kafka: str, nats: str, redis: str) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for part in ("kafka", "nats", "embedded", "late", "late-sqlite"):
            (root / part).mkdir()
        figures += to_kafka(postgres, kafka, root / "kafka")
        figures.append(to_nats(postgres, nats, root / "nats"))
        figures.append(to_embedded(root / "embedded"))
        url = postgres_url(postgres, "bench_late")
        embedded = 'driver = "embedded"\npath = "hexa.db"'
        config = config_of(root / "late", embedded, url)
        figures.append(lateness("PostgreSQL → embedded", config, lambda: psycopg.connect(url)))
        config = config_of(root / "late-sqlite", embedded, "sqlite:///shop.db")
        path = root / "late-sqlite" / "shop.db"
        figures.append(lateness("SQLite → embedded", config, lambda: sqlite3.connect(path)))
    figures += [writing(postgres), claiming(postgres), *beside_redis(postgres, redis)]
    return figures
