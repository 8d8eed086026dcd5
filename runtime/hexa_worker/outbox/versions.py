"""Versions of an outbox's tables, whatever the database."""

from hexa_worker.errors import ConfigError


def reserved(word: str) -> ConfigError:
    """The error of a table whose name is a word of the database's own."""
    return ConfigError(f"{word} is a reserved word of the database", where="outbox.table", hint="name another table")


def require_known(found: int | None, newest: int, table: str) -> None:
    """Refuse tables that a newer program made; None: there are none.

    Raises:
        ConfigError: they are newer.
    """
    if found is not None and found > newest:
        raise ConfigError(
            f"table {table} has version {found}, this hexa-worker knows {newest}",
            where="outbox.table",
            hint="install a newer hexa-worker",
        )
