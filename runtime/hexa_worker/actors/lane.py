"""A lane: a task that lives as long as its worker and runs one handler call at a time.

The hot path of the runtime. No task, no cancel scope and no clock beyond one reading per message; the
sweeper cancels the lane's scope when a handler is late, and the lane goes on in a new scope.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import anyio
from anyio import CancelScope, get_current_task
from anyio.lowlevel import checkpoint

from hexa_worker.actors.contexts import in_copies, name_hand, renew
from hexa_worker.actors.holding import Barrier
from hexa_worker.actors.invoke import Call
from hexa_worker.actors.lane_queues import Queue
from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.actors.results import VERDICTS, per_item, read_result
from hexa_worker.codecs.decode import explained
from hexa_worker.core.expiry import ExpiryWatch
from hexa_worker.core.message import Delivery
from hexa_worker.core.outcome import (
    Expired,
    Interrupted,
    Outcome,
    Raised,
    TimedOut,
    Undecodable,
)
from hexa_worker.core.settlement import Acked, Settlement
from hexa_worker.errors import HandlerCancelled
from hexa_worker.subscriptions.context import AnyContext, BatchContext, Context, Runtime
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.telemetry.log import SubscriptionLog
from hexa_worker.telemetry.stats import Counters

SLICE_S = 0.005
"""A lane whose handlers never suspend lets others run after this long."""


class RecordOutcome(Protocol):
    """What a lane does with an end that is not a plain success."""

    def __call__(self, delivery: Delivery, outcome: Outcome) -> None:
        """Settle `delivery` as `outcome` says."""
        ...


class Settles(Protocol):
    """What a lane needs of the settler."""

    def add(self, settlement: Settlement) -> None: ...

    async def wait_suspects(self) -> None:
        """Wait until no suspect's settlement is pending or under way, as long as that makes sense."""
        ...


class Cell(Protocol):
    """The place in the crash journal that says what a lane has in hand."""

    def begin(self, source: str, offset: int) -> None:
        """A handler is about to run with this delivery."""
        ...

    def end(self) -> None: ...


class NoCell:
    """Where nobody would read the journal."""

    def begin(self, source: str, offset: int) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class LaneParts:
    """What all lanes of a worker share."""

    __slots__ = (
        "call",
        "expiry",
        "isolation",
        "log",
        "mailbox",
        "maximum_crashes",
        "monotonic",
        "plan",
        "record_outcome",
        "runtime",
        "settler",
        "stats",
    )

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        plan: Plan,
        call: Call,
        runtime: Runtime,
        mailbox: Mailbox,
        settler: Settles,
        record_outcome: RecordOutcome,
        stats: Counters,
        log: SubscriptionLog,
        isolation: Barrier,
        expiry: ExpiryWatch,
        maximum_crashes: int,
        monotonic: Callable[[], float],
    ) -> None:
        self.plan = plan
        self.call = call
        self.runtime = runtime
        self.mailbox = mailbox
        self.settler = settler
        self.record_outcome = record_outcome
        self.stats = stats
        self.log = log
        self.isolation = isolation
        self.expiry = expiry
        self.maximum_crashes = maximum_crashes
        self.monotonic = monotonic


class Lane:
    """One lane.

    Attributes:
        current: the deliveries in hand; empty between two calls.
        started: when the present call began (monotonic seconds).
        deadline: when it is late; infinity without a limit.
        late: the sweeper has cancelled it.
        work: the coroutine that it runs; None before it does.
        waiting: what is in flight has not been started: it waits to run alone, or for another that does.
    """

    def __init__(self, number: int, parts: LaneParts, cells: tuple[Cell, ...] = (NoCell(),)) -> None:
        self.number = number
        self.current: tuple[Delivery, ...] = ()
        self.work: Coroutine[Any, Any, None] | None = None
        self.started = 0.0
        self.deadline = math.inf
        self.late = False
        self.waiting = False
        self._parts = parts
        self._cells = cells
        self._scope = CancelScope()
        self._timeout_s = parts.plan.timeout_s or math.inf

    def cancel_late(self) -> None:
        """The handler in hand is past its deadline: cancel it. Called by the sweeper."""
        self.late = True
        self._scope.cancel()

    async def run(self) -> None:
        """Work until the mailbox is closed and empty.

        Cancellation: what is in hand is concluded as interrupted, so it is released, not failed.
        """
        plan = self._parts.plan
        name_hand(plan.action, lambda: self.current, threads=plan.handler.style != "async")
        self.work = self._run()
        await in_copies(self.work)

    async def _run(self) -> None:
        consume = self._consume_batches if self._parts.plan.handler.batch else self._consume
        try:
            while True:
                try:
                    with CancelScope() as self._scope:
                        if not await consume():
                            return
                except anyio.get_cancelled_exc_class():
                    if get_current_task().has_pending_cancellation():
                        raise
                    self._forget_cancellation()
                await renew()
                if self.current:  # the handler was late and took its cancellation
                    late, self.current = self.current, ()
                    self._journal_end()
                    self._parts.stats.timeouts += len(late)
                    for delivery in late:
                        self._parts.record_outcome(delivery, TimedOut(self.deadline_s))
                self.late = False
        finally:
            for delivery in self.current:
                self._parts.record_outcome(delivery, Interrupted())
            self._journal_end()
            self.current = ()

    @property
    def deadline_s(self) -> float:
        """Seconds the present call was given."""
        return self.deadline - self.started

    def _forget_cancellation(self) -> None:
        """A handler has cancelled the task that it ran in, and left it to whatever the lane awaited next."""
        task = asyncio.current_task()
        while task is not None and task.cancelling():
            task.uncancel()
        hand, self.current = self.current, ()
        self._journal_end()
        for delivery in hand:
            self._parts.record_outcome(delivery, Raised(HandlerCancelled("a handler cancelled the task that runs it")))

    def _journal_end(self) -> None:
        for cell in self._cells:
            cell.end()

    async def _consume(self) -> bool:  # noqa: C901 - the hot path: a call more per message costs more than it explains
        """Handle one delivery after the other; True asks for a new scope, False: the mailbox is closed."""
        parts = self._parts
        queue, isolation, settler, expiry = (
            parts.mailbox.ready[self.number],
            parts.isolation,
            parts.settler,
            parts.expiry,
        )
        call, decode, decode_errors = parts.call, parts.plan.handler.decode, parts.plan.handler.decode_errors
        runtime, monotonic, timeout_s = parts.runtime, parts.monotonic, self._timeout_s
        observe, begin = parts.stats.observe, self._cells[0].begin
        here = await renew()
        base = here.copy()
        now = monotonic()  # there may be work already: its time begins now
        slice_end = now + SLICE_S
        while True:
            if now > slice_end or isolation.active or not queue or (expiry.seen and self._drop_expired(queue)):
                if not await self._let_others_run():
                    return False
                now = monotonic()
                slice_end = now + SLICE_S
                continue
            delivery = queue.popleft()
            self.current = (delivery,)
            if delivery.crashes:
                await self._run_suspect(delivery)
                return True
            self.started = now
            self.deadline = now + timeout_s
            begin(delivery.source, delivery.offset)
            try:
                payload = decode(delivery.payload)
            except decode_errors as error:
                self._undecodable(delivery, error)
                here = await renew()
                continue
            context: Context[Any] = Context(delivery, runtime)
            try:
                result = await call(payload, context)
            except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its own failure
                self._raised(error, (context,))
            else:
                self.current = ()
                if result is None and not context.unconfirmed:
                    settler.add(Acked(delivery))
                else:
                    self._returned(delivery, context.left_unconfirmed() or result)
            ended = monotonic()
            observe(ended - now)
            now = ended
            if self.late:
                return True  # it ended in its own way all the same; the scope is spent
            try:
                if here != base:
                    here = await renew()
            except Exception:  # noqa: BLE001 - values are compared, and those are the user's
                here = await renew()

    def _drop_expired(self, queue: Queue) -> bool:
        """Settle what stands first and is of no use any more; whether there was any."""
        is_over, dropped = self._parts.expiry.is_over, False
        while queue and is_over(queue[0]):
            self._parts.record_outcome(queue.popleft(), Expired())
            dropped = True
        return dropped

    async def _let_others_run(self) -> bool:
        """Between two deliveries: pause while one runs alone, yield, or wait for work. False: there will be none."""
        self._journal_end()
        if self._parts.isolation.active:
            await self._parts.isolation.pause()
        elif self._parts.mailbox.ready[self.number]:
            await checkpoint()
        else:
            return await self._parts.mailbox.wait_work(self.number)
        return True

    async def _run_suspect(self, delivery: Delivery) -> None:
        """Handle a delivery that was in hand at a crash, apart from others."""
        parts = self._parts
        exclusively = delivery.crashes + 1 >= parts.maximum_crashes
        self.deadline, self.waiting = math.inf, True
        try:
            async with parts.isolation.alone(exclusively=exclusively):
                await parts.settler.wait_suspects()
                self.waiting = False
                await self._run_batch((delivery,))
        finally:
            self.waiting = False

    async def _consume_batches(self) -> bool:
        """As `_consume`, a batch at a time."""
        isolation = self._parts.isolation
        while True:
            if isolation.active:  # also after a call that was cut short: who waits to run alone must hear of its end
                await isolation.pause()
            batch = await self._gather()
            if not batch:
                return False
            if isolation.stands_still:
                self._parts.mailbox.put_back(batch)
                continue
            self.current = tuple(batch)
            if batch[0].crashes:
                await self._run_suspect(batch[0])
            else:
                await self._wait_isolation(isolation)
                await self._run_batch(self.current)
            await renew()
            await checkpoint()
            if self.late:
                return True

    async def _wait_isolation(self, isolation: Barrier) -> None:
        self.deadline, self.waiting = math.inf, True
        try:
            while isolation.active:
                await isolation.pause()
        finally:
            self.waiting = False

    async def _gather(self) -> list[Delivery]:
        """The next batch: full, or as full as it got within its waiting time; empty when closed.

        A suspect comes alone.
        """
        mailbox, plan, expiry = self._parts.mailbox, self._parts.plan, self._parts.expiry
        queue = mailbox.ready[self.number]
        batch: list[Delivery] = []
        while not batch:  # others may have been faster
            while not queue:
                if not await mailbox.wait_work(self.number):
                    return []
            await self._fill(queue)
            while len(batch) < plan.batch:
                if expiry.seen:
                    self._drop_expired(queue)
                if not queue or (batch and queue[0].crashes):
                    break
                batch.append(queue.popleft())
                if batch[0].crashes:
                    break
        return batch

    async def _fill(self, queue: Queue) -> None:
        """Wait until there is a full batch, or its waiting time is over."""
        mailbox, plan = self._parts.mailbox, self._parts.plan
        if len(queue) < plan.batch and plan.batch_wait_s > 0:
            with anyio.move_on_after(plan.batch_wait_s):
                while len(queue) < plan.batch and await mailbox.wait_work(self.number, plan.batch):
                    pass

    async def _run_batch(self, batch: tuple[Delivery, ...]) -> None:
        """Decode and run deliveries in one call of the handler, and conclude each."""
        parts, plan = self._parts, self._parts.plan
        self.started = parts.monotonic()
        self.deadline = self.started + self._timeout_s
        for cell, delivery in zip(self._cells, batch, strict=False):
            cell.begin(delivery.source, delivery.offset)
        payloads: list[Any] = []
        good: list[Delivery] = []
        for delivery in batch:
            try:
                payloads.append(plan.handler.decode(delivery.payload))
                good.append(delivery)
            except plan.handler.decode_errors as error:
                parts.stats.undecodable += 1
                parts.record_outcome(delivery, Undecodable(explained(delivery.payload, error)))
        self.current = tuple(good)
        if good:
            contexts = tuple(Context(delivery, parts.runtime) for delivery in good)
            whole: AnyContext = BatchContext(contexts, parts.runtime) if plan.handler.batch else contexts[0]
            try:
                if plan.handler.batch:
                    results = per_item(await parts.call(payloads, whole), len(good))
                else:
                    results = [await parts.call(payloads[0], whole)]
            except BaseException as error:  # noqa: BLE001 - as in _consume
                self._raised(error, contexts, whole)
            else:
                self.current = ()
                for delivery, context, one in zip(good, contexts, results, strict=True):
                    self._returned(delivery, whole.left_unconfirmed() or context.left_unconfirmed() or one)
        self._journal_end()
        parts.stats.observe(parts.monotonic() - self.started)

    def _undecodable(self, delivery: Delivery, error: BaseException) -> None:
        self.current = ()
        self._journal_end()
        self._parts.stats.undecodable += 1
        self._parts.record_outcome(delivery, Undecodable(explained(delivery.payload, error)))

    def _returned(self, delivery: Delivery, result: Any) -> None:
        outcome = read_result(result)
        if outcome is None:
            if result is not None:
                self._parts.log.ignored(result)
            self._parts.settler.add(Acked(delivery))
            return
        if isinstance(outcome, Raised):
            self._parts.stats.failed += 1
        self._parts.record_outcome(delivery, outcome)

    def _raised(
        self, error: BaseException, contexts: Sequence[Context[Any]], whole: AnyContext[Any] | None = None
    ) -> None:
        """Conclude a call that raised; the runtime's own cancellation goes on."""
        if not isinstance(error, Exception) and isinstance(error, anyio.get_cancelled_exc_class()):
            if get_current_task().has_pending_cancellation():
                raise error
            error = HandlerCancelled("something the handler awaited was cancelled")
        hand, self.current = self.current, ()
        if isinstance(error, VERDICTS):  # a verdict may acknowledge, and so may not come before what was emitted
            for delivery, context in zip(hand, contexts, strict=True):
                left = context.left_unconfirmed() or (None if whole is None else whole.left_unconfirmed())
                self._returned(delivery, left or error)
            return
        self._parts.stats.failed += len(hand)
        for delivery in hand:
            self._parts.record_outcome(delivery, Raised(error))
