"""Relays that are killed, stopped and started, servers that die: nothing is lost, and keys keep their order."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from hexa_worker import Event
from hexa_worker.app import opened
from hexa_worker.drivers.opening import make_plain_driver
from tests.brokers.base import Broker
from tests.outbox.stage import Place
from tests.outbox.test_inbox import own_connection

EVENTS = 1_500
KEYS = 20
KILLS = 8
LIMIT_S = 90.0


class Writer(threading.Thread):
    """Commits events of its keys one after the other; one in ten transactions is rolled back.

    Attributes:
        committed: key and number of each event, in order; those whose commit failed half way are `unknown`.
    """

    def __init__(self, place: Place, name: str, pause_s: float) -> None:
        super().__init__()
        self._place = place
        self._prefix = name
        self._pause_s = pause_s
        self._chance = random.Random(name)
        self.committed: list[tuple[str, int]] = []
        self.unknown: set[int] = set()

    def run(self) -> None:
        connection: Any = None
        for number in range(EVENTS // 2):
            key = f"{self._prefix}{number % KEYS}"
            while True:
                try:
                    connection = connection or own_connection(self._place)
                    self._place.outbox.emit_sync(connection, Event(channel="orders", payload=number, key=key))
                    if self._chance.random() < 0.1:
                        connection.rollback()
                        break
                    self.unknown.add(number)
                    connection.commit()
                    self.unknown.discard(number)
                    self.committed.append((key, number))
                    break
                except psycopg.OperationalError:
                    connection = None
                    if number in self.unknown:
                        break
                    time.sleep(0.05)
            time.sleep(self._pause_s)
        if connection is not None:
            connection.close()


class Relays:
    """Processes of ``hexa-worker outbox relay``."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, faults: str = "") -> "subprocess.Popen[bytes]":
        path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-m", "hexa_worker", "outbox", "relay"],
            cwd=self._place.config.folder,
            env={**os.environ, "PYTHONPATH": path, "HEXA_WORKER_FAULTS": faults},
            stderr=subprocess.DEVNULL,
        )
        self._running.append(process)
        return process

    def kill_all(self) -> None:
        for one in self._running:
            one.kill()
            one.wait()


@contextlib.contextmanager
def relays(place: Place) -> Iterator[Relays]:
    made = Relays(place)
    try:
        yield made
    finally:
        made.kill_all()


def sent(place: Place) -> list[tuple[str, int]]:
    """Key and number of everything in the broker, in its order."""

    async def read() -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        async with opened(make_plain_driver(place.config)) as driver:
            after = -1
            while page := await driver.browse("orders", after, 1_000):
                found += [((one.key or b"").decode(), int(one.payload)) for one in page]
                after = page[-1].offset
        return found

    return anyio.run(read)


def wait_sent(place: Place, writers: Sequence[Writer]) -> list[tuple[str, int]]:
    wanted = {pair for one in writers for pair in one.committed}
    deadline = time.monotonic() + LIMIT_S
    while True:
        found = sent(place)
        if wanted <= set(found):
            return found
        assert time.monotonic() < deadline, f"{len(wanted - set(found))} events are missing"
        time.sleep(0.2)


def judge(found: list[tuple[str, int]], writers: Sequence[Writer]) -> None:
    """Everything that was committed is there, nothing else, and first appearances keep the order of their key."""
    wanted = {pair for one in writers for pair in one.committed}
    unknown = {number for one in writers for number in one.unknown}
    firsts = list(dict.fromkeys(found))
    assert all(number in unknown for _, number in set(firsts) - wanted)
    for key in {key for key, _ in wanted}:
        mine = [number for each, number in firsts if each == key]
        assert mine == sorted(mine)


def make_channel(place: Place) -> None:
    async def publish() -> None:
        from hexa_worker.core.message import Message

        async with opened(make_plain_driver(place.config)) as driver:
            await driver.publish([Message(channel="other", payload=b"")])

    anyio.run(publish)


def test_relays_killed_at_random_lose_nothing_and_keep_every_key_in_order(place: Place) -> None:
    chance = random.Random(7)
    writers = [Writer(place, name, 0.002) for name in "ab"]
    with relays(place) as fleet:
        for one in writers:
            one.start()
        for _ in range(KILLS):
            process = fleet.start()
            time.sleep(chance.uniform(0.6, 1.2))
            process.kill()
            process.wait()
        fleet.start()
        for one in writers:
            one.join()
        judge(wait_sent(place, writers), writers)


@pytest.mark.parametrize("point", ["outbox-fetched", "outbox-published", "outbox-advanced"])
def test_a_relay_killed_at_each_step_of_its_cycle_loses_nothing(place: Place, point: str) -> None:
    ids = place.write(*range(10))
    with relays(place) as fleet:
        assert fleet.start(f"{point}:kill:at=1").wait(30) == -signal.SIGKILL
        fleet.start()
        writer = Writer(place, "k", 0)
        writer.committed = [("k", number) for number in range(10)]
        found = wait_sent(place, [writer])
    assert [number for _, number in dict.fromkeys(found)] == list(range(10))
    assert len(found) <= 2 * len(ids)


@pytest.mark.postgres
def test_a_relay_that_was_frozen_beyond_its_connection_never_mixes_the_order_of_a_key(
    postgres_place: Place,
) -> None:
    """The server ends the connection of the frozen leader; another one takes over, then the first one wakes."""
    place = postgres_place
    writer = Writer(place, "a", 0.002)
    with relays(place) as fleet:
        first = fleet.start()
        writer.start()
        wait_leading(place)
        fleet.start()
        for _ in range(2):
            time.sleep(0.3)
            first.send_signal(signal.SIGSTOP)
            end_relays(place)
            time.sleep(0.3)
            first.send_signal(signal.SIGCONT)
        writer.join()
        judge(wait_sent(place, [writer]), [writer])


def wait_leading(place: Place) -> None:
    deadline = time.monotonic() + LIMIT_S
    store = place.store(leading=False)
    while store.status(0).leader is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    place.let_go()


def end_relays(place: Place) -> None:
    with psycopg.connect(place.options.url.reveal(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'hexa-worker outbox' AND datname = current_database()"
        )


@pytest.mark.postgres
def test_a_database_that_dies_again_and_again_loses_no_committed_event(postgres_place: Place, postgres: Broker) -> None:
    place = postgres_place
    writers = [Writer(place, name, 0.002) for name in "ab"]
    with relays(place) as fleet:
        fleet.start()
        fleet.start()
        for one in writers:
            one.start()
        for _ in range(2):
            time.sleep(0.7)
            postgres.kill()
            postgres.start()
        for one in writers:
            one.join()
        judge(wait_sent(place, writers), writers)
