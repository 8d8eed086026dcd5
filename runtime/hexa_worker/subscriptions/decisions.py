"""What was decided about a delivery, for metrics and error trackers: `on_outcome`, `Decision`."""

from collections.abc import Callable
from types import TracebackType
from typing import Literal, TypeAlias

import msgspec
from typing_extensions import TypeVar

from hexa_worker.core.lineage import Lineage, lineage_of
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Failure
from hexa_worker.errors import ConfigError

OUTCOME_MARK = "__hexa_worker_on_outcome__"
What: TypeAlias = Literal["acked", "dropped", "retried", "snoozed", "dead-lettered", "held"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one delivery after its handler ended. It takes effect in the broker soon afterwards.

    Attributes:
        action: the subscription's name.
        delivery: the record; its attempt is the one that ended.
        what: ``acked``, ``dropped``, ``retried``, ``snoozed``, ``dead-lettered``, or ``held`` (``on_exhausted``).
        failure: class and message of the error, reason and fingerprint, also of a snooze; None of a success.
        error: what the handler raised, or what made it raise its verdict; None where nothing was (a timeout, say).
        delay_s: seconds until it comes again; None: it does not.
        dropped: why the handler did not want it; empty: it did.
    """

    action: str
    delivery: Delivery
    what: What
    failure: Failure | None = None
    error: BaseException | None = None
    delay_s: float | None = None
    dropped: str = ""

    @property
    def lineage(self) -> Lineage:
        """The ids of the event."""
        return lineage_of(self.delivery)

    @property
    def exc_info(self) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
        """The error as logging and error trackers take it."""
        return None if self.error is None else (type(self.error), self.error, self.error.__traceback__)


OutcomeHook: TypeAlias = Callable[[Decision], None]
H = TypeVar("H", bound=OutcomeHook)


def on_outcome(function: H, /) -> H:
    """Mark a plain function that is told what was decided about each delivery: ``def report(decision: Decision)``.

    It must be in a module that ``worker.handlers`` names, or imported into one; there may be several. It is called on
    the event loop, right after the handler, also for the lucky ones, so it must not block; what it raises is logged.
    Deliveries that were released (a shutdown) or skipped as duplicates are not told.
    """
    try:
        setattr(function, OUTCOME_MARK, True)
    except (AttributeError, TypeError) as error:  # a bound method, a builtin
        raise ConfigError(f"{function!r} cannot be marked", hint="mark a function of a module") from error
    return function
