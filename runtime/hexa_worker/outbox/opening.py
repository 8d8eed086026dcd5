"""Which store the ``[outbox]`` table of a worker.toml names. Its client library is imported here."""

from importlib.util import find_spec

from hexa_worker.config.model import Config
from hexa_worker.config.outbox import OutboxConfig
from hexa_worker.errors import ConfigError
from hexa_worker.outbox.base import OutboxStore


def outbox_options(config: Config) -> OutboxConfig:
    """The ``[outbox]`` table.

    Raises:
        ConfigError: there is none.
    """
    if config.file.outbox is None:
        raise ConfigError("there is no outbox", where=f"{config.path.name}: outbox", hint="add [outbox] with a url")
    return config.file.outbox


def make_store(config: Config) -> OutboxStore:
    """A store, not open yet.

    Raises:
        ConfigError: there is no outbox, or its client library is not installed.
    """
    options = outbox_options(config)
    path = options.sqlite_path(config.folder)
    if path is not None:
        from hexa_worker.outbox.sqlite.store import SqliteStore  # noqa: PLC0415 - lazy by design

        return SqliteStore(path, options)
    require_psycopg(config)
    from hexa_worker.outbox.postgres.store import PostgresOutboxStore  # noqa: PLC0415 - lazy by design

    return PostgresOutboxStore(options)


def require_psycopg(config: Config) -> None:
    """Look for PostgreSQL's client library; nothing is imported.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("psycopg") is None:
        raise ConfigError(
            "PostgreSQL's client is not installed",
            where=f"{config.path.name}: outbox.url",
            hint="pip install 'hexa-worker[postgres]'",
        )
