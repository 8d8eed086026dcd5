"""What the tests of the outbox share: a database, writers in transactions of their own, and a relay's store."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from hexa_worker import Event
from hexa_worker.config.load import parse_config
from hexa_worker.config.model import Config
from hexa_worker.outbox import Outbox
from hexa_worker.outbox.base import OutboxStore
from hexa_worker.outbox.initialising import initialise
from hexa_worker.outbox.opening import make_store, outbox_options
from tests.deadlines import wait_until

LIMIT_S = 30.0


def make_tables(config: Config) -> None:
    """As ``hexa-worker outbox init``."""
    initialise(config)


EMBEDDED = 'driver = "embedded"\npath = "hexa.db"'


def make_config(url: str, folder: Path, broker: str = EMBEDDED, batch: int = 2_000) -> Config:
    """Of a worker with an outbox at `url`; `broker` is the table of that name."""
    text = f"""
[worker]
name = "shop"
handlers = ["handlers"]
[broker]
{broker}
[outbox]
url = "{url}"
retention_s = 0
retry_interval_s = 0.1
maximum_retries = 2
batch = {batch}
"""
    (folder / "worker.toml").write_text(text)
    return parse_config(text, folder / "worker.toml")


class Place:
    """One outbox.

    Args:
        config: of a worker with an outbox whose tables are there.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.options = outbox_options(config)
        self.outbox = Outbox.from_config(config.path)
        self._opened: list[Any] = []

    @property
    def sqlite(self) -> bool:
        return self.options.sqlite_path(self.config.folder) is not None

    def connect(self) -> Any:
        """A connection of a service, which begins transactions by itself."""
        path = self.options.sqlite_path(self.config.folder)
        made: Any = psycopg.connect(self.options.url.reveal()) if path is None else sqlite3.connect(path, timeout=5)
        self._opened.append(made)
        return made

    def own_connection(self) -> Any:
        """As `connect`, for a thread of its own, which closes it itself."""
        path = self.options.sqlite_path(self.config.folder)
        return psycopg.connect(self.options.url.reveal()) if path is None else sqlite3.connect(path, timeout=30)

    def store(self, *, leading: bool = True) -> OutboxStore:
        """A relay's store; open."""
        made = make_store(self.config)
        made.open()
        self._opened.append(made)
        if leading:
            lead(made)
        return made

    def write(self, *numbers: int, key: str | None = "k", connection: Any = None) -> list[str]:
        """Emit events whose payload is a number, and commit them."""
        mine = connection or self.connect()
        events = [Event(channel="orders", payload=number, key=key) for number in numbers]
        ids = self.outbox.emit_sync(mine, *events)
        mine.commit()
        return ids

    def let_go(self) -> None:
        """Close what was opened last."""
        self._opened.pop().close()

    def close(self) -> None:
        for one in self._opened:
            one.close()


def lead(store: OutboxStore) -> None:
    """Lead, as soon as whoever led before is gone: the server lets go of a lock a moment after its owner has left."""
    wait_until(store.lead)


def payloads(records: Sequence[Any]) -> list[int]:
    """The numbers that were emitted."""
    return [int(one.message.payload) for one in records]


def fetch_all(store: OutboxStore, limit: int = 100) -> list[int]:
    """The numbers of everything that is to be sent now; noted as sent."""
    found: list[int] = []
    while (batch := store.fetch(limit)) is not None:
        found += payloads(batch.records)
        store.advance(batch.place, [])
    return found
