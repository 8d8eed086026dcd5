"""What a context offers of an outbox: events and a claim in the handler's own database transaction."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Protocol

from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Headers
from hexa_worker.subscriptions.event import Event


class EventWriter(Protocol):
    """Writes child events of the event that is handled, in the transaction of a connection."""

    async def emit(self, *events: Event) -> Sequence[str]:
        """Write events; returns their ids. They are sent once the transaction is committed.

        Raises:
            ConfigError: an event cannot be emitted as it is.
            OutboxError: the connection is of no known kind, or in no transaction.
        """
        ...

    def emit_sync(self, *events: Event) -> Sequence[str]:
        """As `emit`, for connections whose calls block."""
        ...


class Transaction(Protocol):
    """A transaction in which the event is claimed: entered by ``async with``, or by ``with`` in a plain function."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Block:
    """What became of `Context.transaction` in one run of a handler, whose event one block alone can mark as done.

    Attributes:
        state: of the block; empty: none was entered, or it was rolled back.
    """

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Literal["", "open", "committed"] = ""


class Transactions(Protocol):
    """What the runtime has of an outbox."""

    def writer(self, connection: Any, parent: Lineage, carried: Headers) -> EventWriter:
        """See `Context.outbox`."""
        ...

    def transaction(self, connection: Any, action: str, event_id: str, block: Block) -> Transaction:
        """See `Context.transaction`."""
        ...
