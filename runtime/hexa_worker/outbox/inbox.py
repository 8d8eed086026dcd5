"""The inbox: a handler's rows, the claim of its event and the events it emits, in one database transaction.

Whoever has the event again finds the claim, so its effects happen once, however often it is delivered.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from msgspec.structs import replace

from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Headers
from hexa_worker.core.outcome import Ack, Drop, Duplicate
from hexa_worker.handlers.api import Event
from hexa_worker.outbox.connections import AsyncConnection, SyncConnection, async_connection, sync_connection
from hexa_worker.outbox.errors import OutboxError
from hexa_worker.outbox.outbox import Outbox
from hexa_worker.outbox.statements import claim

_Name = tuple[str, str, str]
_open: ContextVar[frozenset[_Name]] = ContextVar("hexa_worker_open_claims", default=frozenset())
"""The claims whose blocks this task, or this thread, is in."""


class HandlerOutbox:
    """What `Context.outbox` and `Context.transaction` are made of.

    Args:
        outbox: of the worker.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def writer(self, connection: Any, parent: Lineage, carried: Headers) -> "ChildWriter":
        """Writes children of an event."""
        return ChildWriter(self._outbox, connection, parent, carried)

    def transaction(self, connection: Any, action: str, event_id: str) -> "ClaimingTransaction":
        """A transaction that claims an event for an action."""
        return ClaimingTransaction(self._outbox.table, connection, action, event_id)


class ChildWriter:
    """See `hexa_worker.handlers.transactions.EventWriter`."""

    def __init__(self, outbox: Outbox, connection: Any, parent: Lineage, carried: Headers) -> None:
        self._outbox = outbox
        self._connection = connection
        self._parent = parent
        self._carried = carried

    async def emit(self, *events: Event) -> list[str]:
        """See `EventWriter`."""
        return await self._outbox.emit(self._connection, *self._children(events), parent=self._parent)

    def emit_sync(self, *events: Event) -> list[str]:
        """See `EventWriter`."""
        return self._outbox.emit_sync(self._connection, *self._children(events), parent=self._parent)

    def _children(self, events: Sequence[Event]) -> list[Event]:
        return [event if event.carried else replace(event, carried=self._carried) for event in events]


class ClaimingTransaction:
    """See `hexa_worker.handlers.transactions.Transaction`.

    It begins a transaction, or takes the one that the connection has begun by itself, and ends it: by a commit when
    the block ends as it should (also with `Ack` or `Drop`), otherwise by a rollback, claim included. Entering it for
    an event that is claimed raises `Duplicate`; while another process has claimed it and is not done, it waits.
    """

    def __init__(self, table: str, connection: Any, action: str, event_id: str) -> None:
        self._raw = connection
        self._name = (table, action, event_id)
        self._claim = claim(table, action, event_id)
        self._sync: SyncConnection | None = None
        self._async: AsyncConnection | None = None

    async def __aenter__(self) -> Any:
        """Begin and claim; returns the connection.

        Raises:
            Duplicate: the event is done.
            OutboxError: the connection is of no known kind, or the block is in another one of the same event.
        """
        self._require_outermost()
        self._async = connection = await async_connection(self._raw)
        await connection.begin()
        try:
            claimed = await connection.execute(self._claim)
        except BaseException:
            await connection.end(commit=False)
            raise
        if not claimed:
            await connection.end(commit=False)
            raise Duplicate
        _open.set(_open.get() | {self._name})
        return self._raw

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or roll back."""
        _open.set(_open.get() - {self._name})
        assert self._async is not None  # noqa: S101 - it was entered
        await self._async.end(commit=_succeeded(error))

    def __enter__(self) -> Any:
        """As `__aenter__`, for connections whose calls block."""
        self._require_outermost()
        self._sync = connection = sync_connection(self._raw)
        connection.begin()
        try:
            claimed = connection.execute(self._claim)
        except BaseException:
            connection.end(commit=False)
            raise
        if not claimed:
            connection.end(commit=False)
            raise Duplicate
        _open.set(_open.get() | {self._name})
        return self._raw

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or roll back."""
        _open.set(_open.get() - {self._name})
        assert self._sync is not None  # noqa: S101 - it was entered
        self._sync.end(commit=_succeeded(error))

    def _require_outermost(self) -> None:
        """Refuse a block within a block: it would find the claim of the outer one, and take its event for done."""
        if self._name in _open.get():
            raise OutboxError("this is in ctx.transaction already: pass its connection on, and do not enter it again")


def _succeeded(error: BaseException | None) -> bool:
    return error is None or isinstance(error, Ack | Drop)
