"""Packs in PostgreSQL: one table that the services of several machines share.

A row is a pack, as in the file: the cost of writing is paid per batch, and ids are found by looking for their bytes.
Every connection commits by itself and prepares nothing, so a pooler in between is no obstacle.
"""

import os
from collections.abc import Iterator
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from hexa_worker.config.secret import Secret
from hexa_worker.lineage.base import NothingRecorded, StoreError
from hexa_worker.lineage.entries import LineageEntry
from hexa_worker.lineage.packs import unpack

SCHEMA_VERSION = 1
CONNECT_S = 3
SILENCE_MS = 10_000
"""A connection whose other end says nothing for so long is given up."""
EXPIRE_ROWS = 500
_LOCK = 0x68657861  # "hexa": one process at a time makes the tables
_LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "::1"})
_SCHEMA: LiteralString = """
CREATE TABLE IF NOT EXISTS hexa_lineage_schema (version integer NOT NULL);
CREATE TABLE IF NOT EXISTS hexa_lineage_pack (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms bigint NOT NULL,
    blob bytea NOT NULL
);
ALTER TABLE hexa_lineage_pack ALTER COLUMN blob SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS hexa_lineage_pack_at ON hexa_lineage_pack (at_ms);
"""  # EXTERNAL: not compressed, so that a search need not unpack everything


class PostgresLineageStore:
    """The packs of one database. Not for two threads at once.

    Args:
        url: ``postgresql://user:password@host/database``, with libpq's parameters. Certificate and host name of a
            server that is not on this machine are checked unless the URL says ``sslmode`` itself.
        create: whether missing tables are made.

    Raises:
        StoreError: it cannot be reached, is one of a newer version, or has no tables and none are to be made.
    """

    def __init__(self, url: Secret, *, create: bool = True) -> None:
        parameters = _parameters(url)
        self._name = f"postgresql at {parameters.get('host') or 'this machine'}"
        try:
            self._db = psycopg.connect(make_conninfo(**parameters), autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            raise self._failed(error) from error
        try:
            self._prepare(create=create)
        except psycopg.Error as error:
            self.close()
            raise self._failed(error) from error
        except StoreError:
            self.close()
            raise

    def append(self, blob: bytes, at_ms: int) -> None:
        """See `hexa_worker.lineage.base.LineageStore`."""
        try:
            self._db.execute("INSERT INTO hexa_lineage_pack (at_ms, blob) VALUES (%s, %b)", (at_ms, blob))
        except psycopg.Error as error:
            raise self._failed(error) from error

    def expire(self, before_ms: int) -> int:
        """See `hexa_worker.lineage.base.LineageStore`; several processes may do it at once."""
        try:
            return self._db.execute(
                "DELETE FROM hexa_lineage_pack WHERE id IN (SELECT id FROM hexa_lineage_pack WHERE at_ms < %s"
                " ORDER BY at_ms LIMIT %s FOR UPDATE SKIP LOCKED)",
                (before_ms, EXPIRE_ROWS),
            ).rowcount
        except psycopg.Error as error:
            raise self._failed(error) from error

    def mentioning(self, text: str, since_ms: int) -> Iterator[LineageEntry]:
        """See `hexa_worker.lineage.base.LineageStore`."""
        try:
            with self._db.cursor(binary=True) as cursor:
                rows = cursor.stream(
                    "SELECT blob FROM hexa_lineage_pack WHERE at_ms >= %s AND position(%b IN blob) > 0 ORDER BY id",
                    (since_ms, text.encode(errors="replace")),
                )
                for (blob,) in rows:
                    yield from unpack(blob)
        except (psycopg.Error, msgspec.DecodeError, ValueError) as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
        self._db.close()

    def _prepare(self, *, create: bool) -> None:
        version = self._version()
        if version is None and create:
            with self._db.transaction():
                self._db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                version = self._version()
                if version is None:
                    self._db.execute(_SCHEMA)
                    self._db.execute("INSERT INTO hexa_lineage_schema VALUES (%s)", (SCHEMA_VERSION,))
                    version = SCHEMA_VERSION
        if version is None:
            raise NothingRecorded(f"lineage store {self._name}: nothing was recorded yet")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"lineage store {self._name}: its version is {version}, this release knows {SCHEMA_VERSION}"
            )

    def _version(self) -> int | None:
        (there,) = self._row("SELECT to_regclass('hexa_lineage_schema') IS NOT NULL")
        if not there:
            return None
        (version,) = self._row("SELECT max(version) FROM hexa_lineage_schema")
        return None if version is None else int(version)

    def _row(self, query: LiteralString) -> tuple[Any, ...]:
        row = self._db.execute(query).fetchone()
        return row if row is not None else (None,)

    def _failed(self, error: Exception) -> StoreError:
        return StoreError(f"lineage store {self._name}: {' '.join(str(error).split()) or type(error).__qualname__}")


def _parameters(url: Secret) -> dict[str, Any]:
    """What libpq is told.

    Raises:
        StoreError: the URL is none; what is wrong with it is not told, for it may be a part of the password.
    """
    mistake = "lineage store: its url is no PostgreSQL URL (are special characters percent-encoded?)"
    try:
        told = conninfo_to_dict(url.reveal())
    except psycopg.Error:
        raise StoreError(mistake) from None
    if not all(port.isdecimal() for port in str(told.get("port") or "5432").split(",")):
        raise StoreError(mistake)
    hosts = str(told.get("host") or told.get("hostaddr") or "").split(",")
    local = all(host in _LOOPBACK or host.startswith("/") for host in hosts)
    if "sslmode" not in told and "PGSSLMODE" not in os.environ and not local:
        told["sslmode"] = "verify-full"
        told.setdefault("sslrootcert", "system")
    defaults = {"connect_timeout": CONNECT_S, "application_name": "hexa-worker", "tcp_user_timeout": SILENCE_MS}
    return {**defaults, **told}
