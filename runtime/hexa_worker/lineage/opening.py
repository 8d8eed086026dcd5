"""The lineage store that worker.toml asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.config.model import Config
from hexa_worker.config.secret import Secret
from hexa_worker.errors import ConfigError
from hexa_worker.lineage.base import LineageStore, NothingRecorded, StoreError
from hexa_worker.lineage.recorder import Recorder


@contextmanager
def recording(config: Config, clock: Clock | None = None) -> Iterator[Recorder | None]:
    """A recorder that writes to the store of `config`; None where lineage is off. Closed at the end.

    Raises:
        ConfigError: the database's client library is not installed.
    """
    wanted = config.file.lineage
    if wanted.store == "off":
        yield None
        return
    require_postgres(config)
    recorder = Recorder(lambda: _open(config, create=True), clock or SystemClock(), keep_days=wanted.keep_days)
    try:
        yield recorder
    finally:
        recorder.close()


def open_store(config: Config) -> LineageStore | None:
    """The store of `config`, to be read; None where it is off or nothing was recorded yet.

    Raises:
        ConfigError: the database's client library is not installed.
        StoreError: it cannot be read.
    """
    wanted = config.file.lineage
    require_postgres(config)
    if wanted.store == "off" or (wanted.store != "postgres" and not (config.folder / wanted.path).is_file()):
        return None
    try:
        return _open(config, create=False)
    except NothingRecorded:
        return None


def _open(config: Config, *, create: bool) -> LineageStore:
    """Open the store; its library is imported here, in a worker by the recorder's own thread."""
    wanted = config.file.lineage
    if wanted.store == "postgres":
        try:
            from hexa_worker.lineage.postgres import PostgresLineageStore  # noqa: PLC0415 - lazy by design
        except ImportError as error:  # psycopg without libpq
            raise StoreError(f"lineage store: psycopg cannot be used: {error}") from error
        return PostgresLineageStore(wanted.url or Secret(""), create=create)
    from hexa_worker.lineage.store import SqliteLineageStore  # noqa: PLC0415 - lazy by design

    return SqliteLineageStore(config.folder / wanted.path, create=create, maximum_bytes=wanted.maximum_bytes)


def require_postgres(config: Config) -> None:
    """Look for the client library, if the store of `config` needs it; nothing is imported.

    Raises:
        ConfigError: it is not installed.
    """
    if config.file.lineage.store == "postgres" and find_spec("psycopg") is None:
        hint = "pip install 'hexa-worker[postgres]'"
        raise ConfigError("the postgres client is not installed", where="lineage.store", hint=hint)


__all__ = ["StoreError", "open_store", "recording"]
