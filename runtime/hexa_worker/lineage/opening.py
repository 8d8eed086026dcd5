"""The lineage store that worker.toml asks for."""

from collections.abc import Iterator
from contextlib import contextmanager

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.config.model import Config
from hexa_worker.lineage.base import Store, StoreError
from hexa_worker.lineage.recorder import Recorder
from hexa_worker.lineage.store import LineageStore


@contextmanager
def recording(config: Config, clock: Clock | None = None) -> Iterator[Recorder | None]:
    """A recorder that writes to the store of `config`; None where lineage is off. Closed at the end."""
    wanted = config.file.lineage
    if wanted.store == "off":
        yield None
        return
    path, maximum = config.folder / wanted.path, wanted.maximum_bytes
    recorder = Recorder(
        lambda: LineageStore(path, maximum_bytes=maximum), clock or SystemClock(), keep_days=wanted.keep_days
    )
    try:
        yield recorder
    finally:
        recorder.close()


def open_store(config: Config) -> Store | None:
    """The store of `config`, to be read; None where it is off or nothing was recorded yet.

    Raises:
        StoreError: it cannot be read.
    """
    wanted = config.file.lineage
    path = config.folder / wanted.path
    if wanted.store == "off" or not path.is_file():
        return None
    return LineageStore(path, create=False)


__all__ = ["StoreError", "open_store", "recording"]
