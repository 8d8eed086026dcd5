"""What can be wrong with an outbox's database."""

from hexa_worker.errors import HexaWorkerError, Hopeless


class OutboxError(HexaWorkerError):
    """The outbox cannot be used as it is: no tables, no rights, a connection outside of a transaction."""


class SecondTransaction(OutboxError, Hopeless):
    """A handler enters `ctx.transaction` after it has committed one: tried again, its event would be a duplicate."""


class OutboxUnavailable(HexaWorkerError):
    """Its database is away; time may mend it."""


class OutboxBusy(OutboxUnavailable):
    """Its database is there and takes nothing now: another one writes, or it is full. The lead is kept."""


class Fenced(HexaWorkerError):
    """Another relay sends the events by now: this one must stop."""
