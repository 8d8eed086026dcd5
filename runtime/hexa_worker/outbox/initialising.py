"""Making and renewing the tables of an outbox."""

import sqlite3

from hexa_worker.config.model import Config
from hexa_worker.outbox.errors import OutboxError
from hexa_worker.outbox.opening import outbox_options, require_psycopg


def initialise(config: Config) -> tuple[int | None, int]:
    """Make or renew the tables; returns their version before (None: there were none) and now. Safe to repeat.

    Raises:
        ConfigError: there is no outbox, its client is not installed, or the tables are of another program.
        OutboxUnavailable: the database is away.
        OutboxError: it refuses.
    """
    options = outbox_options(config)
    path = options.sqlite_path(config.folder)
    if path is not None:
        from hexa_worker.outbox.sqlite import schema as sqlite_schema  # noqa: PLC0415 - lazy by design
        from hexa_worker.outbox.sqlite.store import connect as connect_sqlite  # noqa: PLC0415 - as above

        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            db = connect_sqlite(path)
            try:
                return sqlite_schema.migrate(db, options.table)
            finally:
                db.close()
        except sqlite3.Error as error:
            raise OutboxError(f"{path}: {error}") from error
    require_psycopg(config)
    from hexa_worker.outbox.postgres import connecting, schema  # noqa: PLC0415 - lazy by design

    with connecting.connect(options.url) as connection, connecting.named(options.url):
        return schema.migrate(connection, options.table)


def ddl(config: Config) -> str:
    """The statements that make the tables, to run by other means.

    Raises:
        ConfigError: there is no outbox.
    """
    options = outbox_options(config)
    if options.sqlite_path(config.folder) is not None:
        from hexa_worker.outbox.sqlite import schema as sqlite_schema  # noqa: PLC0415 - lazy by design

        return sqlite_schema.ddl(options.table)
    from hexa_worker.outbox.postgres import schema  # noqa: PLC0415 - lazy by design

    return schema.ddl(options.table)


def restore(config: Config) -> int:
    """Go on in a database that was restored elsewhere; returns how many events wait to be sent.

    What was sent shortly before the dump may be sent again: transactions of another cluster cannot be compared.
    """
    options = outbox_options(config)
    if options.sqlite_path(config.folder) is not None:
        raise OutboxError("a SQLite outbox needs no such care: its file is all there is")
    require_psycopg(config)
    from hexa_worker.outbox.postgres import connecting, schema  # noqa: PLC0415 - lazy by design

    with connecting.connect(options.url) as connection, connecting.named(options.url):
        return schema.adopt(connection, options.table)
