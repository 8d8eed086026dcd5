"""Writers that never stop, relays as processes, and what must hold of all that arrived."""

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import psycopg

from hexa_worker import Event
from hexa_worker.drivers.opening import make_plain_driver, opened
from tests.deadlines import wait_until
from tests.outbox.stage import Place

KEYS = 20
PAGE = 10_000
WAIT_S = 90.0


class Writer(threading.Thread):
    """Commits events of its keys one transaction after the other; one in ten is rolled back.

    Args:
        place: the outbox.
        name: begins its keys, and is the seed of its chances.
        events: how many to write.
        pause_s: between two transactions.
        most: in a transaction, one to so many.

    Attributes:
        committed: key and number of each event, in order; those whose commit failed half way are `unknown`.
        ended: it wrote all of them.
    """

    def __init__(self, place: Place, name: str, events: int, *, pause_s: float = 0.002, most: int = 1) -> None:
        super().__init__(daemon=True)  # or one of a test that failed would keep the whole run from ending
        self._place = place
        self._prefix = name
        self._events = events
        self._pause_s = pause_s
        self._most = most
        self._chance = random.Random(name)
        self.committed: list[tuple[str, int]] = []
        self.unknown: set[tuple[str, int]] = set()
        self.ended = False

    def run(self) -> None:
        connection: Any = None
        number = 0
        while number < self._events:
            size = min(self._chance.randint(1, self._most), self._events - number)
            pairs = [(f"{self._prefix}{one % KEYS}", one) for one in range(number, number + size)]
            connection = self._write(connection, pairs, rollback=self._chance.random() < 0.1)
            number += size
            time.sleep(self._pause_s)
        if connection is not None:
            connection.close()
        self.ended = True

    def _write(self, connection: Any, pairs: Sequence[tuple[str, int]], *, rollback: bool) -> Any:
        """One transaction, again until it is known to be written, or may be; returns the connection to go on with."""
        events = [Event(channel="orders", payload=number, key=key) for key, number in pairs]
        while True:
            committing = False
            try:
                connection = connection or self._place.own_connection()
                self._place.outbox.emit_sync(connection, *events)
                if rollback:
                    connection.rollback()
                    return connection
                committing = True
                connection.commit()
            except psycopg.OperationalError:
                connection = None
                if committing:
                    self.unknown.update(pairs)
                    return None
                time.sleep(0.05)
            else:
                self.committed += pairs
                return connection


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
            while page := await driver.browse("orders", after, PAGE):
                found += [((one.key or b"").decode(), int(one.payload)) for one in page]
                after = page[-1].offset
        return found

    return anyio.run(read)


def wait_sent(place: Place, writers: Sequence[Writer]) -> list[tuple[str, int]]:
    wanted = {pair for one in writers for pair in one.committed}
    deadline = time.monotonic() + WAIT_S
    while True:
        found = sent(place)
        if wanted <= set(found):
            return found
        assert time.monotonic() < deadline, f"{len(wanted - set(found))} events are missing"
        time.sleep(0.2)


def judge(found: list[tuple[str, int]], writers: Sequence[Writer]) -> None:
    """Everything that was committed is there, nothing else, and first appearances keep the order of their key."""
    wanted = {pair for one in writers for pair in one.committed}
    assert all(one.ended for one in writers)
    firsts = list(dict.fromkeys(found))
    arrived = set(firsts)
    assert wanted <= arrived
    assert arrived - wanted <= {pair for one in writers for pair in one.unknown}
    last: dict[str, int] = {}
    for key, number in firsts:
        assert number > last.get(key, -1), f"of {key}, {number} came behind {last[key]}"
        last[key] = number


def wait_leading(place: Place) -> None:
    store = place.store(leading=False)
    wait_until(lambda: store.status(0).leader is not None, WAIT_S)
    place.let_go()


def end_relays(place: Place) -> None:
    with psycopg.connect(place.options.url.reveal(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'hexa-worker outbox' AND datname = current_database()"
        )
