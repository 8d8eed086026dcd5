"""Connections to the outbox's PostgreSQL, and what its errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from hexa_worker.config.secret import Secret
from hexa_worker.outbox.errors import OutboxBusy, OutboxError, OutboxUnavailable

CONNECT_S = 3
SILENCE_MS = 10_000
"""A connection whose other end says nothing for so long is given up."""
_PASSING = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.TooManyConnections,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)
"""What the server says when it can do it later: it is starting, or another one is the primary by now."""
_BUSY = (errors.LockNotAvailable, errors.QueryCanceled, errors.DiskFull, errors.DeadlockDetected)
"""The same, on a connection that can be used on."""


def connect(url: Secret) -> "psycopg.Connection[Any]":
    """A connection in autocommit that prepares its statements.

    Raises:
        OutboxUnavailable, OutboxError: it is away, or refuses the login.
    """
    with named(url):
        parameters = _read(url)
        usual: dict[str, Any] = {
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": SILENCE_MS,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "application_name": "hexa-worker outbox",
        }
        return psycopg.connect(make_conninfo(**{**usual, **parameters}), autocommit=True)


def _read(url: Secret) -> dict[str, Any]:
    """What a connection string says; libpq's own words about one that it cannot read would show the login."""
    try:
        return conninfo_to_dict(url.reveal())
    except psycopg.ProgrammingError:
        hint = "is a % in it no %25, or a parameter unknown?"
        raise OutboxError(f"outbox.url is no connection string that PostgreSQL's client can read: {hint}") from None


@contextmanager
def named(url: Secret) -> Iterator[None]:
    """Turn what psycopg raises into our errors, with the host and without the login."""
    try:
        yield
    except psycopg.Error as error:
        raise failed(url, error) from error


def failed(url: Secret, error: psycopg.Error) -> OutboxError | OutboxUnavailable:
    """Our error for one of psycopg's."""
    host = _read(url).get("host") or "this machine"
    text = f"PostgreSQL at {host}: {' '.join(str(error).split()) or type(error).__name__}"
    if isinstance(error, errors.InvalidPassword | errors.InvalidAuthorizationSpecification | errors.InvalidCatalogName):
        return OutboxError(text)
    if isinstance(error, _BUSY):
        return OutboxBusy(text)
    if isinstance(error, _PASSING) or error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
        return OutboxUnavailable(text)
    return OutboxError(text)
