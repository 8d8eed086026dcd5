"""What the relay, the commands and the inbox need of a database. Calls block: run them in a thread, one at a time."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from hexa_worker.outbox.records import HeldRecord, OutboxRecord

Line = tuple[str, bytes]
"""A channel and a key in it."""
LEASE_MS = 10_000
"""A leader that asks its database nothing for so long is taken for frozen: another one may lead."""


class RelayPosition(msgspec.Struct, frozen=True):
    """How far the events are sent; its content is the store's own."""


class OutboxBatch(msgspec.Struct, frozen=True):
    """What is to be sent next.

    Attributes:
        records: in the order of their ids; may be empty.
        place: where the relay is once they are sent or held.
    """

    records: Sequence[OutboxRecord]
    place: RelayPosition


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How an outbox stands.

    Attributes:
        pending: how many events are written and not sent, held ones included.
        exact: false where `pending` is an estimate because there are many.
        oldest_age_s: how old the oldest of them is; None without any.
        held: how many of them the broker has refused, or wait behind such a one.
        parked: how many are given up.
        leader: who sends them, as the database tells it; None: nobody.
        blocked_by: the oldest transaction that still may commit events: its process and its age in seconds;
            the age is None where this login may not see it.
        version: of the tables.
    """

    pending: int
    exact: bool
    oldest_age_s: float | None
    held: int
    parked: int
    leader: str | None
    blocked_by: tuple[int, float | None] | None
    version: int


class OutboxStore(Protocol):
    """One connection to one outbox, for the relay.

    Every method raises `OutboxUnavailable` when the database is away, and `OutboxError` when it never will work.
    """

    def open(self) -> None:
        """Connect; see that the tables are there, of a known version, with the rights that are needed."""
        ...

    def close(self) -> None:
        """Disconnect, and give up the leadership. Idempotent."""
        ...

    def lead(self) -> bool:
        """Try to become the one that sends; begin at the place that was last noted."""
        ...

    def fetch(self, limit: int) -> OutboxBatch | None:
        """What follows the batch that was fetched last, at most `limit` records; None: nothing is there."""
        ...

    def confirm(self) -> None:
        """See that it is the leader still, and stay it for `LEASE_MS` more. Raises `Fenced`."""
        ...

    def advance(self, place: RelayPosition, held: Sequence[HeldRecord]) -> None:
        """Note that everything up to `place` is sent, but for what is `held` from now on. Raises `Fenced`."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when something was written, or after `seconds`."""
        ...

    def blocked(self, *, parked: bool) -> set[Line]:
        """The lines in which something is held; `parked`: those in which something is only parked, too."""
        ...

    def unled(self, *, parked: bool) -> Sequence[Line]:
        """The lines in which everything waits behind a record that is there no more, or parked unless `parked`."""
        ...

    def due(self, now_ms: int, limit: int) -> Sequence[HeldRecord]:
        """Refused records whose time has come."""
        ...

    def line(self, line: Line, limit: int) -> Sequence[HeldRecord]:
        """The first held records of a line that are not parked, in order."""
        ...

    def settle(self, sent: Sequence[int], held: Sequence[HeldRecord]) -> None:
        """Forget the held records that were `sent`; note anew those in `held`. Raises `Fenced`."""
        ...

    def clean(self, before_ms: int) -> int:
        """Remove what was sent, and claims of what was handled, before a time; returns how many claims."""
        ...

    def lacking(self) -> Sequence[str]:
        """What a relay with this login may not do, though it must: ``TRUNCATE on hexa_outbox_0``."""
        ...

    def busy(self) -> bool:
        """Whether something can be sent now, or will be tried again by itself. Needs no leadership."""
        ...

    def status(self, now_ms: int) -> Status:
        """How it stands. Needs no leadership."""
        ...

    def held(self, limit: int) -> Sequence[HeldRecord]:
        """What is held or parked, in order. Needs no leadership."""
        ...

    def retry(self, ids: Sequence[int] | None) -> int:
        """Let parked records be tried again, all or those named; returns how many. Needs no leadership."""
        ...

    def drop(self, ids: Sequence[int]) -> int:
        """Forget parked records; returns how many. Needs no leadership."""
        ...

    def find(self, event_id: str) -> str | None:
        """``waiting``, or the `State` of the event; None: it is not there, or sent. Needs no leadership."""
        ...
