"""What became of each delivery: decided by `core.settlement`, logged, and handed to the settler.

What is not to run any more, because the worker ends or its source is revoked, is released here too.
"""

import random

from hexa_worker.actors.dedup_stage import Deduplicator
from hexa_worker.actors.holding import Hold
from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.actors.outcome_hooks import OutcomeHooks
from hexa_worker.actors.pausing import PausedDeliveries
from hexa_worker.actors.retry_timer import RetryTimer
from hexa_worker.actors.services import WorkerServices
from hexa_worker.actors.settler import Settler
from hexa_worker.core.message import Delivery
from hexa_worker.core.outcome import Interrupted, Outcome, Raised, error_of
from hexa_worker.core.settlement import (
    Acked,
    DeadLettered,
    Held,
    Postponed,
    RetryAt,
    Settlement,
    gives_up,
    held_instead,
    settle,
)
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.telemetry.log import SubscriptionLog
from hexa_worker.telemetry.tracebacks import format_error

_FAILED = (RetryAt, DeadLettered)


class OutcomeHandler:
    """One worker's.

    Attributes:
        hooks: told what is decided; None where the application has none.
        leaving: sources that are being revoked: what is postponed of them is released.
        drained: nothing is queued any more, and nothing will be: whatever is postponed is released.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        plan: Plan,
        env: WorkerServices,
        mailbox: Mailbox,
        deduplicator: Deduplicator | None,
        retry_timer: RetryTimer | None,
        paused: PausedDeliveries,
        hold: Hold | None,
        settler: Settler,
        log: SubscriptionLog,
    ) -> None:
        self.leaving = set[str]()
        self.drained = False
        self._retry = plan.retry
        self._route = plan.route
        self._clock = env.clock
        self._mailbox = mailbox
        self._deduplicator = deduplicator
        self._paused = paused
        self._retry_timer = retry_timer
        self._hold = hold
        self._settler = settler
        self._log = log
        self.hooks = None
        if env.outcome_hooks and not plan.internal:
            self.hooks = OutcomeHooks(plan.action, env.outcome_hooks, log)

    def record(self, delivery: Delivery, outcome: Outcome) -> None:
        """Decide what is done about an outcome, say so, and hand it to the settler."""
        try:
            settlement = self._settlement(delivery, outcome)
        except BaseException as error:  # noqa: BLE001 - the outcome is an object of the user's, and may be anything
            unreadable = TypeError(f"its outcome cannot be read: {type(error).__qualname__}")
            settlement = self._settlement(delivery, Raised(unreadable))
        held = held_instead(settlement, self._route)
        if self.hooks is not None:
            self.hooks.tell(settlement, error_of(outcome), held=held is not None)
        if isinstance(settlement, Postponed):
            self._postpone(settlement)
            return
        if held is not None:
            self._stand_still(held)
            return
        if isinstance(settlement, _FAILED):
            self._log.failure(settlement)
        elif isinstance(settlement, Acked) and settlement.dropped is not None:
            self._log.dropped(delivery, settlement.dropped)
        self._settler.add(settlement)

    def release_queued(self, sources: frozenset[str] | None = None) -> None:
        """Release what no handler has begun with: all of it, or what came from `sources`."""
        waiting = [] if self._deduplicator is None else self._deduplicator.take(sources)
        held = [] if self._hold is None else self._hold.take(sources)
        for delivery in (*self._mailbox.take_queued(sources), *waiting, *self._paused.take(sources), *held):
            self.record(delivery, Interrupted())

    def _settlement(self, delivery: Delivery, outcome: Outcome) -> Settlement:
        return settle(
            outcome,
            delivery,
            self._route,
            now_ms=self._clock.now_ms(),
            jitter=random.random() if self._retry.jitter else 0.0,  # noqa: S311 - spreads load
            traceback=self._traceback(delivery, outcome),
        )

    def _traceback(self, delivery: Delivery, outcome: Outcome) -> str:
        """Of what is kept only: it takes its time."""
        error = error_of(outcome)
        if error is None or not (self._log.debug or gives_up(outcome, delivery, self._route)):
            return ""
        return format_error(error)

    def _stand_still(self, held: Held) -> None:
        """Keep it where it is, and start nothing behind it."""
        self._log.held(held)
        if self._hold is None or self.drained or held.delivery.source in self.leaving:
            self.record(held.delivery, Interrupted())
        else:
            self._hold.hold(held.delivery)

    def _postpone(self, settlement: Postponed) -> None:
        """Run it again later, in its place; whoever has it by then.

        It may only be released once what is queued behind it was, or that would run before it.
        """
        delivery, again = settlement.delivery, settlement.again
        self._log.failure(settlement)
        if self._deduplicator is not None:
            self._deduplicator.postponed(delivery, again)
        self._settler.add(settlement)
        if self._retry_timer is None or self.drained or again.source in self.leaving:
            self.record(again, Interrupted())
        else:
            self._retry_timer.postpone(again)
