"""The errors of hexa-worker: one root, few leaves.

Vendor exceptions never cross a driver's edge: each driver maps them onto the `DriverError` leaves
with ``raise … from``, so that the rest of the runtime can decide by type alone what to do next.
"""


class HexaWorkerError(Exception):
    """Root of every error that hexa-worker raises on purpose."""


class ConfigError(HexaWorkerError):
    """Something the user wrote cannot work: worker.toml, a handler's signature, a command's argument.

    Args:
        message: what is wrong, with the offending value.
        where: the file and key path (``worker.toml: subscriptions.check-order.mailbox``) or the place
            in the code (``handlers/orders.py:12 check_order``).
        hint: what is allowed, or what to do.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.message}{hint}"


class DecodeError(HexaWorkerError):
    """A payload is not what its handler's annotation says. Never retried: it cannot mend itself."""


class Hopeless(HexaWorkerError):
    """Raised in a handler, it means the dead letter at once: trying again cannot help."""


class LifespanFailed(HexaWorkerError):
    """The lifespan raised before its ``yield``: its process cannot work, and another one tries it again."""


class HandlerTimeout(HexaWorkerError):
    """A handler ran past its deadline and was cancelled."""


class HandlerCancelled(HexaWorkerError):
    """A handler ended with a cancellation that the runtime did not ask for."""


class EmitUnconfirmed(HexaWorkerError):
    """A handler returned before what it emitted was confirmed: most likely ``await`` was forgotten."""


class ProcessCrashed(HexaWorkerError):
    """A delivery was in hand each time a worker process died."""


class Unanswered(HexaWorkerError):
    """No answer to a request came in its time. Its event is stored, and may be handled all the same."""


class WorkerFailed(HexaWorkerError):
    """A worker that was served in this process has ended without being asked, or a subscription of it has failed."""


class DriverError(HexaWorkerError):
    """Something went wrong between a driver and its broker."""


class DriverUnavailable(DriverError):
    """The broker cannot be reached or cannot serve now: time may mend it, so callers retry for ever."""


class DriverRejected(DriverError):
    """The broker refused for good (too large, no rights, a name it does not allow): retrying is useless."""


BrokerUnavailable = DriverUnavailable
"""What an emitter raises when an event was not confirmed; the same class by the name that an application reads."""
BrokerRejected = DriverRejected
"""What an emitter raises when the broker refuses an event for good; the same class, as above."""


class UnknownChannel(DriverRejected):
    """Nothing keeps what is published to a channel, and nobody asked for that to be made."""


class RecordTooLarge(DriverRejected):
    """The broker refused a record for good because of its size: its payload, its headers or how many these are.

    A smaller record with the same meaning would be taken, so whoever may cut one does.
    """


class DriverBroken(DriverError):
    """The driver came to its end in this process by a defect: only a new process mends that."""


class LeaseLost(DriverError):
    """The delivery belongs to someone else by now: it must not be settled."""


def only_error(error: BaseException) -> BaseException:
    """The one error inside of groups, where there is only one; the group where there are more."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
