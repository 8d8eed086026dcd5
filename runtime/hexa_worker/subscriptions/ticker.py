"""What makes handlers run by the clock: each schedule has one event for later in the broker, that of its next time.

Such an event is read by one process at a time, in order. Whoever gets it emits the tick that the handler runs for,
then the event of the time after that, and acknowledges it then: whichever process dies, another one goes on. Every
process that starts emits the next event, too, with the same id, so a chain that is lost begins again; of several
copies the first one counts. A tick that was emitted twice, because a process died in between, has one event id.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from hexa_worker.backoff import Backoff
from hexa_worker.core.lineage import Lineage, spelled
from hexa_worker.core.outcome import Drop, Retry
from hexa_worker.errors import DriverRejected, DriverUnavailable
from hexa_worker.subscriptions.context import Context
from hexa_worker.subscriptions.event import Event
from hexa_worker.subscriptions.schedules import Schedule, Tick, moment

ACTION = "hexa-schedules"
GRACE_MS = 60_000
"""A tick that is so late was missed."""
UNKNOWN_S = 60.0
UNKNOWN_TIMES = 10
"""So often a schedule that this process does not know is left to others: a new version may be rolling out."""
log = logging.getLogger("hexa_worker.schedules")


class PendingTick(msgspec.Struct, frozen=True):
    """The next time of a schedule.

    Attributes:
        action: whose.
        text: of the schedule.
        due_ms: when, milliseconds since the epoch.
    """

    action: str
    text: str
    due_ms: int


class Target(NamedTuple):
    """A schedule, and the channel that its handler reads."""

    schedule: Schedule
    channel: str


class Emitting(Protocol):
    """What a ticker needs of an encoder."""

    async def emit(self, event: Event, parent: Lineage | None = None) -> str:
        """Publish one event; returns its id. Raises DriverError."""
        ...


class Ticker:
    """The schedules of a worker, in one process.

    Args:
        channel: where the events of the next times are.
        targets: by action.
    """

    def __init__(self, channel: str, targets: Mapping[str, Target]) -> None:
        self.channel = channel
        self._targets = targets
        self._last: dict[str, int] = {}
        self._emitter: Emitting
        self._now_ms: Callable[[], int]

    def bind(self, emitter: Emitting, now_ms: Callable[[], int]) -> None:
        """Emit by this emitter, in the time of this wall clock."""
        self._emitter = emitter
        self._now_ms = now_ms

    async def seed(self) -> None:
        """Emit the next event of each schedule. Raises DriverUnavailable, DriverRejected."""
        now_ms = self._now_ms()
        for action, target in self._targets.items():
            await self._emit_next(action, target.schedule, now_ms)

    @property
    def handler(self) -> Callable[[PendingTick, Context], Awaitable[Drop | Retry | None]]:
        """What handles the events of `channel`."""

        async def tick(pending: PendingTick, ctx: Context) -> Drop | Retry | None:
            return await self._tick(pending, ctx.attempt)

        return tick

    async def _tick(self, pending: PendingTick, attempt: int) -> Drop | Retry | None:
        target = self._targets.get(pending.action)
        if target is None or target.schedule.text != pending.text:
            if attempt < UNKNOWN_TIMES:
                return Retry(after=UNKNOWN_S, reason="this process does not know the schedule")
            return Drop(f"nobody has the schedule {pending.text!r} of {pending.action} any more")
        if pending.due_ms <= self._last.get(pending.action, 0):
            return Drop("it ticked already")
        schedule, now_ms = target.schedule, self._now_ms()
        missed = now_ms - pending.due_ms > GRACE_MS
        if missed and schedule.missed == "skip":
            log.warning("%s: its time %s was missed, and is skipped", pending.action, moment(pending.due_ms))
        else:
            tick = Tick(due=moment(pending.due_ms), missed=missed)
            event_id = spelled(f"{pending.action}@{pending.due_ms}")
            await self._emit(Event(target.channel, msgspec.json.encode(tick), id=event_id))
        after_ms = now_ms if missed else pending.due_ms  # what is only late is made up for, one by one
        await self._until_emitted(lambda: self._emit_next(pending.action, schedule, after_ms), pending.action)
        self._last[pending.action] = pending.due_ms
        return None

    async def _emit(self, event: Event) -> None:
        async def emit() -> None:
            await self._emitter.emit(event)

        await self._until_emitted(emit, event.channel)

    async def _emit_next(self, action: str, schedule: Schedule, after_ms: int) -> None:
        due_ms = schedule.next_after(after_ms)
        pending = PendingTick(action, schedule.text, due_ms)
        event_id = spelled(f"{action}@{schedule.text}@{due_ms}")
        await self._emitter.emit(Event(self.channel, msgspec.json.encode(pending), id=event_id, at=moment(due_ms)))

    async def _until_emitted(self, emit: Callable[[], Awaitable[None]], what: str) -> None:
        """Emit, however long the broker is unavailable: the chain must not end. What is refused is said."""
        backoff = Backoff()
        while True:
            try:
                await emit()
            except DriverUnavailable as error:
                log.debug("%s: %s", what, error)
            except DriverRejected:
                log.exception("the schedule of %s cannot go on: the broker refuses its event", what)
                return
            else:
                return
            await backoff.wait()
