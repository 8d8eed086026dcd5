"""The relay: sends what was written to an outbox, in the order of keys, exactly as it was prepared.

One relay of all sends; the others stand by and take over when its connection, or its process, is gone. What is sent
is confirmed by the broker before the place is noted, so a relay that dies repeats at most the batch it had in hand.
"""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

import anyio
from anyio.to_thread import run_sync

from hexa_worker.backoff import Backoff
from hexa_worker.config.outbox import OutboxConfig
from hexa_worker.drivers.base import Driver
from hexa_worker.errors import ConfigError, DriverError, DriverUnavailable, only_error
from hexa_worker.faults import fault
from hexa_worker.outbox.base import Line, OutboxBatch, OutboxStore, Status
from hexa_worker.outbox.errors import Fenced, OutboxBusy, OutboxError, OutboxUnavailable
from hexa_worker.outbox.records import HeldRecord, OutboxRecord
from hexa_worker.outbox.turns import Refusal, closes, due_prefix, first_of_lines, heads, refused, sort_out
from hexa_worker.telemetry.report import OutboxReport

STANDBY_S = 1.0
"""How often one that stands by tries to lead."""
SLICE_S = 0.2
"""The longest that a thread waits for the database in one go: so long may a stop take."""
DOUBT_S = 3.0
"""After a pause of this length the relay asks whether it still leads before it sends."""
RENEW_S = 2.0
"""A leader that has nothing else to ask its database, as the broker is slow, asks this often."""
CLEAN_S = 30.0
STATUS_S = 5.0
IDLE_LOOK_S = 0.1
T = TypeVar("T")
log = logging.getLogger("hexa_worker.outbox")


class Relay:
    """One relay.

    Args:
        store: its own connection to the outbox; opened and closed by it.
        driver: an open driver, without wire formats.
        options: the ``[outbox]`` table.

    Attributes:
        state: what it does now.
        relayed: records that the broker confirmed.
        refused: refusals, each attempt counted.
        batches: how many batches it sent.
        sending_s: seconds spent with that.
        failure: why nothing is relayed, where only somebody can mend it: no tables, no rights, a record that is none.
    """

    def __init__(self, store: OutboxStore, driver: Driver, options: OutboxConfig) -> None:
        self.state: Literal["away", "standby", "leading"] = "away"
        self.relayed = self.refused = self.batches = 0
        self.sending_s = 0.0
        self.failure: OutboxError | ConfigError | None = None
        self._store = store
        self._driver = driver
        self._options = options
        self._stopping = False
        self._stopped = anyio.Event()
        self._ended = anyio.Event()
        self._said = ""
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._lines = set[Line]()
        self._draining = deque[Line]()
        self._touched = 0.0
        self._look_at = 0.0
        self._clean_at = 0.0
        self._status: Status | None = None
        self._status_at = 0.0

    def stop(self) -> None:
        """End `run` behind the batch that is under way. Idempotent."""
        self._stopping = True
        self._stopped.set()

    async def run(self) -> None:
        """Relay until `stop`: whatever is away is tried again for ever.

        Cancellation: as a kill: what is under way may be sent again by the next one.
        """
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._stay_leader)
                await self._run()
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            raise only_error(errors) from None
        finally:
            self._ended.set()

    async def _stay_leader(self) -> None:
        """Show the database that this process lives: one that is frozen loses the lead."""
        while True:
            await anyio.sleep(RENEW_S)
            if self.state == "leading":
                try:
                    await self._call(self._store.confirm)
                except (OutboxUnavailable, OutboxError, Fenced):
                    self._touched = -DOUBT_S  # so it is asked again, and the answer heard, before anything is sent

    async def finish(self, within_s: float) -> None:
        """Stop, and wait until `run` has returned, but no longer than `within_s`. Cancellation: safe."""
        self.stop()
        with anyio.move_on_after(within_s):
            await self._ended.wait()

    async def _run(self) -> None:
        backoff = Backoff(first_s=0.1, longest_s=5.0)
        while not self._stopping:
            try:
                await self._call(self._store.open)
                await self._serve()
            except (OutboxUnavailable, Fenced) as error:
                self._say_unless_stopping(error)
            except (OutboxError, ConfigError) as error:  # as tables of a newer version
                self.failure = error
                self._say_unless_stopping(error)
            finally:
                if self.state == "leading":
                    backoff = Backoff(first_s=0.1, longest_s=5.0)
                self.state = "away"
                with anyio.CancelScope(shield=True):
                    await self._call(self._store.close)
            await self._rest(backoff.next_s())

    def report(self) -> OutboxReport:
        """How it stands; what is told of the database is a few seconds old."""
        status = self._status if self.state == "leading" else None
        return OutboxReport(
            state=self.state,
            relayed=self.relayed,
            refused=self.refused,
            batches=self.batches,
            sending_s=self.sending_s,
            pending=0 if status is None else status.pending,
            oldest_age_s=0.0 if status is None else status.oldest_age_s or 0.0,
            parked=0 if status is None else status.parked,
        )

    async def busy(self) -> bool:
        """Whether something is left to send, by whoever leads; true while nobody can tell.

        Cancellation: safe.
        """
        if self.state == "away":
            return True
        try:
            return await self._call(self._store.busy)
        except (OutboxUnavailable, OutboxError):
            return True

    # -- one life

    async def _serve(self) -> None:
        self.state = "standby"
        while not await self._call(self._store.lead):
            self.failure = None  # somebody else sends: what failed here stops nothing
            await self._rest(STANDBY_S)
            if self._stopping:
                return
        log.info("relaying %s", self._options.table)
        self._said = ""
        self.failure = None
        self.state = "leading"
        self._lines = await self._call(lambda: self._store.blocked(parked=self._holds))
        self._draining.clear()
        self._look_at = 0.0
        batch: OutboxBatch | None = None
        while not self._stopping:
            await self._look()
            await self._mind_held()
            if batch is None:
                batch = await self._fetch()
            if batch is None:
                await self._idle_round()
            else:
                batch = await self._relay(batch)

    @property
    def _holds(self) -> bool:
        return self._options.on_refused == "hold"

    async def _idle_round(self) -> None:
        """Nothing to send: clean up now and then, wait for more."""
        now = time.monotonic()
        if now >= self._clean_at:
            self._clean_at = now + CLEAN_S
            before_ms = time.time_ns() // 1_000_000 - round(self._options.retention_s * 1000)
            await self._call(lambda: self._store.clean(before_ms))
        await self._call(lambda: self._store.wait(min(self._options.poll_s, SLICE_S)))

    async def _look(self) -> None:
        """Ask now and then how much waits, for `report`."""
        if time.monotonic() >= self._status_at:
            self._status = await self._call(lambda: self._store.status(time.time_ns() // 1_000_000))
            self._status_at = time.monotonic() + STATUS_S

    async def _fetch(self) -> OutboxBatch | None:
        batch = await self._call(lambda: self._store.fetch(self._options.batch))
        await fault("outbox-fetched")
        return batch

    async def _relay(self, batch: OutboxBatch) -> OutboxBatch | None:
        """Send a batch and note it; returns the one that was fetched meanwhile."""
        largest = self._driver.capabilities.max_payload
        send, too_large, behind = sort_out(batch.records, self._lines, largest)
        following: OutboxBatch | Exception | None = None

        async def prefetch() -> None:
            nonlocal following
            following = await _caught(self._fetch)

        async with anyio.create_task_group() as group:
            group.start_soon(prefetch)
            refusals = await _caught(lambda: self._send(send))
        if isinstance(refusals, Exception):
            raise refusals
        refusals += [Refusal(one, f"its payload is larger than {largest} bytes") for one in too_large]
        held = self._all_held(refusals)
        held += [HeldRecord(record=one, state="behind") for one in behind]
        await fault("outbox-published")
        await self._note(lambda: self._store.advance(batch.place, held))
        await fault("outbox-advanced")
        self._lines |= closes(held, self._options.on_refused)
        if isinstance(following, Exception):
            raise following
        return following

    async def _send(self, records: Sequence[OutboxRecord]) -> list[Refusal]:
        """Publish records, as often as the broker is away; returns those that it did not take, and why."""
        if not records:
            return []
        backoff = Backoff()
        while True:
            try:
                return await self._publish(records)
            except DriverUnavailable as error:
                self._say(error)
            await self._rest(backoff.next_s())
            if self._stopping:
                raise Fenced("a stop was asked while the broker was away")

    async def _publish(self, records: Sequence[OutboxRecord]) -> list[Refusal]:
        """Publish records once. Raises DriverUnavailable: none is confirmed."""
        if time.monotonic() - self._touched > DOUBT_S:
            await self._call(self._store.confirm)
        begin = time.monotonic()
        answers = await self._driver.publish([one.message for one in records])
        self._said = ""
        failed = [
            Refusal(one, str(answer), counts=not isinstance(answer, DriverUnavailable))
            for one, answer in zip(records, answers, strict=True)
            if isinstance(answer, DriverError)
        ]
        self.sending_s += time.monotonic() - begin
        self.batches += 1
        self.relayed += len(records) - len(failed)
        return failed

    async def _publish_or_hold(self, records: Sequence[OutboxRecord]) -> list[Refusal]:
        """Publish held records once: where their channel is away they stay held, and nobody else waits for it."""
        try:
            return await self._publish(records)
        except DriverUnavailable as error:
            return [Refusal(one, str(error), counts=False) for one in records]

    def _all_held(self, refusals: Sequence[Refusal], waiting: Sequence[HeldRecord] = ()) -> list[HeldRecord]:
        """What becomes of records that were not taken: the later ones of a key wait behind its first.

        `waiting` are those that were held before.
        """
        before = {one.record.id: one.attempts for one in waiting}
        first, later = heads(refusals)
        held = [self._held(one, before.get(one.record.id, 0)) for one in first]
        return held + [
            HeldRecord(
                record=one.record, state="behind", attempts=before.get(one.record.id, 0) + one.counts, reason=one.reason
            )
            for one in later
        ]

    def _held(self, refusal: Refusal, before: int = 0) -> HeldRecord:
        """What becomes of a record that was not taken, said in the log; `before`: how often it was refused already."""
        held = refused(refusal, before, self._options, time.time_ns() // 1_000_000)
        self.refused += refusal.counts
        what = "was refused" if refusal.counts else "could not be sent"
        then = "is parked" if held.state == "parked" else f"is tried again in {self._options.retry_interval_s:g} s"
        record = refusal.record
        log.warning(
            "event %s for %s %s and %s: %s", record.event_id, record.message.channel, what, then, refusal.reason
        )
        return held

    # -- what is held

    async def _mind_held(self) -> None:
        """Try again what was refused, and let go on what waits behind something that is gone."""
        if self._draining:
            await self._drain(self._draining[0])
            return
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + min(self._options.retry_interval_s, STANDBY_S)
        due = await self._call(lambda: self._store.due(time.time_ns() // 1_000_000, self._options.batch))
        if due:
            await self._try_again(first_of_lines(due))
        if self._lines:
            self._draining.extend(await self._call(lambda: self._store.unled(parked=self._holds)))

    async def _try_again(self, before: Sequence[HeldRecord]) -> None:
        """Send refused records, at most one of a line; lines whose one is taken go on."""
        closed = closes(await self._resend(before), self._options.on_refused)
        lines = [line for one in before if (line := one.record.line) is not None]
        self._draining.extend(line for line in lines if line not in closed)

    async def _drain(self, line: Line) -> None:
        """Send the first of those that wait in a line; it is open again when none is left."""
        waiting = await self._call(lambda: self._store.line(line, self._options.batch))
        if not waiting:
            self._lines.discard(line)
            self._draining.popleft()
            return
        if await self._resend(due_prefix(waiting)):
            self._draining.popleft()

    async def _resend(self, before: Sequence[HeldRecord]) -> list[HeldRecord]:
        """Send what was held before, and note what became of it; returns what is held still."""
        held = self._all_held(await self._publish_or_hold([one.record for one in before]), before)
        kept = {one.record.id for one in held}
        sent = [one.record.id for one in before if one.record.id not in kept]
        await self._note(lambda: self._store.settle(sent, held))
        return held

    # -- its means

    async def _call(self, function: Callable[[], T]) -> T:
        """Call the store in a thread; one call at a time."""
        began = time.monotonic()
        try:
            return await run_sync(function, limiter=self._one_at_a_time)
        finally:
            self._touched = began  # not when it ended: the process may have been frozen in the call

    async def _note(self, function: Callable[[], None]) -> None:
        """Note what was sent; again while the database is only busy, for what is not noted would be sent again."""
        backoff = Backoff()
        while True:
            try:
                return await self._call(function)
            except OutboxBusy as error:
                if self._stopping:
                    raise
                self._say(error)
            await self._rest(backoff.next_s())

    async def _rest(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._stopped.wait()

    def _say_unless_stopping(self, error: Exception) -> None:
        if not self._stopping:
            self._say(error)

    def _say(self, error: Exception) -> None:
        """Say why nothing is sent, once per reason."""
        if str(error) != self._said:
            self._said = str(error)
            log.warning("the outbox is not relayed, trying again: %s", error)


async def _caught(call: Callable[[], Awaitable[T]]) -> T | OutboxUnavailable | OutboxError | Fenced:
    """What a call returns, or the error that ends this turn as leader: a task group would hide it in another one."""
    try:
        return await call()
    except (OutboxUnavailable, OutboxError, Fenced) as error:
        return error


async def until_sent(relay: Relay) -> None:
    """Stop a relay once nothing is left to send, seen twice in a row, or nothing ever will. Cancellation: safe."""
    seen = 0
    while seen < 2 and relay.failure is None:  # noqa: PLR2004 - a transaction may commit between two looks
        await anyio.sleep(IDLE_LOOK_S)
        seen = 0 if await relay.busy() else seen + 1
    relay.stop()
