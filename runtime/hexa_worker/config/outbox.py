"""The ``[outbox]`` table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from hexa_worker.config.addresses import require_plain_url
from hexa_worker.config.secret import Secret

TABLE_PATTERN = r"^([a-z_][a-z0-9_]{0,39}\.)?[a-z_][a-z0-9_]{0,39}$(?!\n)"
TableName = Annotated[
    str, Meta(pattern=TABLE_PATTERN, description="lower-case letters, digits and underscores, with a schema or without")
]


class OutboxConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The outbox: events are written in a transaction of the service's own database and sent later.

    Attributes:
        url: the database: ``postgresql://user:password@host/database``, or ``sqlite:///path`` (relative to the folder
            of worker.toml; ``sqlite:////path`` is absolute).
        table: the name that the outbox's tables begin with.
        relay: whether a process of the worker sends the events; false leaves it to ``hexa-worker outbox relay``.
        retention_s: how long sent events and claims of handled ones are kept.
        batch: the most events that are sent at once.
        poll_s: how often the relay looks for events when no notification comes.
        maximum_retries: how often an event that the broker refuses is retried before it is parked.
        retry_interval_s: how long to wait before each of these retries.
        on_refused: ``hold`` keeps later events of a parked event's key behind it until the event is retried or
            dropped; ``park`` lets them pass.
    """

    OLD_NAMES: ClassVar[Mapping[str, str]] = {"maximum_attempts": "maximum_retries"}
    """Keys by the names they had, which worker.toml may still use."""

    url: Secret
    table: TableName = "hexa_outbox"
    relay: bool = True
    retention_s: Annotated[float, Meta(ge=0)] = 86_400.0
    batch: Annotated[int, Meta(ge=1, le=100_000)] = 2_000
    poll_s: Annotated[float, Meta(gt=0)] = 1.0
    maximum_retries: Annotated[int, Meta(ge=0)] = 10
    retry_interval_s: Annotated[float, Meta(gt=0)] = 5.0
    on_refused: Literal["hold", "park"] = "hold"

    def __post_init__(self) -> None:
        url = self.url.reveal()
        if url.startswith(("mysql", "mariadb")):
            raise ValueError(
                "url must be of PostgreSQL or SQLite: MySQL and MariaDB do not tell which rows commit late"
            )
        if not url.startswith(("postgresql://", "postgres://", "sqlite:///")):
            raise ValueError("url must begin with postgresql:// or sqlite:///")
        if not url.startswith("sqlite:"):
            require_plain_url("url", url)
        elif "." in self.table:
            raise ValueError("table must be without a schema in SQLite, which has none")

    def sqlite_path(self, folder: Path) -> Path | None:
        """The file of a SQLite outbox; None for PostgreSQL."""
        scheme, _, path = self.url.reveal().partition(":///")
        return folder / path if scheme == "sqlite" else None
