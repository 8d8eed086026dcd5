"""Versions of an outbox's tables, whatever the database."""

from hexa_worker.errors import ConfigError


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
