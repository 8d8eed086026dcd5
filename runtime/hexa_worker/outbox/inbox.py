"""The inbox: a handler's rows, the claim of its event and the events it emits, in one database transaction.

Whoever has the event again finds the claim, so its effects happen once, however often it is delivered.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from msgspec.structs import replace

from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Headers
from hexa_worker.core.outcome import Ack, Drop, Duplicate
from hexa_worker.outbox.connections import AsyncConnection, SyncConnection, async_connection, sync_connection
from hexa_worker.outbox.errors import OutboxError, SecondTransaction
from hexa_worker.outbox.outbox import Outbox
from hexa_worker.outbox.statements import Statement, claim
from hexa_worker.subscriptions.api import Event
from hexa_worker.subscriptions.transactions import Block


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

    def transaction(self, connection: Any, action: str, event_id: str, block: Block) -> "ClaimingTransaction":
        """A transaction that claims an event for an action."""
        return ClaimingTransaction(claim(self._outbox.table, action, event_id), connection, block)


class ChildWriter:
    """See `hexa_worker.subscriptions.transactions.EventWriter`."""

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
    """See `hexa_worker.subscriptions.transactions.Transaction`.

    It begins a transaction, or takes the one that the connection has begun by itself, and ends it: by a commit when
    the block ends as it should (also with `Ack` or `Drop`), otherwise by a rollback, claim included. Entering it for
    an event that is claimed raises `Duplicate`; while another process has claimed it and is not done, it waits.
    """

    def __init__(self, claim: Statement, connection: Any, block: Block) -> None:
        self._raw = connection
        self._block = block
        self._claim = claim
        self._sync: SyncConnection | None = None
        self._async: AsyncConnection | None = None

    async def __aenter__(self) -> Any:
        """Begin and claim; returns the connection.

        Raises:
            Duplicate: the event is done.
            OutboxError: the connection is of no known kind, or this run of the handler is, or was, in a block already.
        """
        self._require_only()
        self._block.state = "open"  # before anything is awaited: another task of the handler may enter, too
        try:
            await self._begin()
        except BaseException:
            self._block.state = ""
            raise
        return self._raw

    async def _begin(self) -> None:
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or roll back."""
        self._block.state = ""
        assert self._async is not None  # noqa: S101 - it was entered
        commit = _succeeded(error)
        await self._async.end(commit=commit)
        self._block.state = "committed" if commit else ""

    def __enter__(self) -> Any:
        """As `__aenter__`, for connections whose calls block."""
        self._require_only()
        self._block.state = "open"
        try:
            self._begin_sync()
        except BaseException:
            self._block.state = ""
            raise
        return self._raw

    def _begin_sync(self) -> None:
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or roll back."""
        self._block.state = ""
        assert self._sync is not None  # noqa: S101 - it was entered
        commit = _succeeded(error)
        self._sync.end(commit=commit)
        self._block.state = "committed" if commit else ""

    def _require_only(self) -> None:
        """Refuse a second block, which would find the claim of the first and take its event for done."""
        if self._block.state == "open":
            raise OutboxError("this is in ctx.transaction already: pass its connection on, and do not enter it again")
        if self._block.state == "committed":
            raise SecondTransaction(
                "this run of the handler has committed a ctx.transaction, which marks its event as done: "
                "what a second one writes belongs into the first, or to a child event"
            )


def _succeeded(error: BaseException | None) -> bool:
    return error is None or isinstance(error, Ack | Drop)
