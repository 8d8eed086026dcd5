"""The outbox that worker.toml names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hexa_worker.config.load import load_config
from hexa_worker.outbox.base import OutboxStore
from hexa_worker.outbox.opening import make_store


@contextmanager
def open_outbox(path: Path) -> Iterator[OutboxStore]:
    """A store that is open and does not lead.

    Raises:
        ConfigError: worker.toml has no outbox.
        OutboxError, OutboxUnavailable: it cannot be opened.
    """
    store = make_store(load_config(path))
    try:
        store.open()
        yield store
    finally:
        store.close()
