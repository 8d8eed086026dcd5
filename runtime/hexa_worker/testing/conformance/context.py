"""What a claim works with: the driver under test, its broker, and ways to wait that cannot hang.

A claim never cancels a `receive` to find out that nothing comes (clients lose deliveries then): it starts one,
watches it stay quiet, and ends it by `stop`.
"""

import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.core.message import Delivery, Headers, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.outcome import DeadLetter, Outcome, Retry, Snooze
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, DeadLettered, RetryAt, Route, Settlement, counted, settle
from hexa_worker.drivers.base import Capabilities, Driver, Source, SubscriptionSpec
from hexa_worker.errors import DriverUnavailable

B = TypeVar("B")
PLENTY = 64 * 1024 * 1024
"""A `max_bytes` that does not limit."""


@dataclass(frozen=True, kw_only=True)
class DriverUnderTest(Generic[B]):
    """How the suite gets at a driver. `broker` yields whatever stands for the broker; the hooks are given it.

    Hooks that are None leave out the claims that need them.

    Attributes:
        name: for test ids and reports.
        capabilities: what the driver promises; claims that ask for more are left out.
        broker: opens a fresh broker, or a shared one (every claim uses names of its own).
        driver: makes a driver that stands for one more process on that broker; not opened yet.
        kill: makes a driver vanish as ``kill -9`` of its process would: no cleanup, no goodbye.
        stall: makes a driver lose its leases while it lives on, as a frozen process does.
        away: makes the broker unreachable.
        back: brings it back.
        clocked: makes a driver as `driver` does whose clocks are these.
        clock: the wall clock that the driver's due times follow.
        deadline_s: no claim may take longer; the bound of every call.
        quiet_s: how long nothing must happen until the suite believes that nothing will.
        wake_s: how soon a new message must reach a waiting receive.
        delay_s: the retry delay used by claims.
        slack_s: added to every promise about time; machines are shared.
    """

    name: str
    capabilities: Capabilities
    broker: Callable[[], AbstractAsyncContextManager[B]]
    driver: Callable[[B], Driver]
    kill: Callable[[B, Driver], Awaitable[None]] | None = None
    stall: Callable[[B, Driver], Awaitable[None]] | None = None
    away: Callable[[B], Awaitable[None]] | None = None
    back: Callable[[B], Awaitable[None]] | None = None
    clocked: Callable[[B, Clock], Driver] | None = None
    clock: Clock = field(default_factory=SystemClock)
    deadline_s: float = 20.0
    quiet_s: float = 0.05
    wake_s: float = 1.0
    delay_s: float = 0.15
    slack_s: float = 1.0


def expect(condition: object, message: str) -> None:
    """Fail the claim with `message` unless `condition` holds (asserts vanish under ``-O``)."""
    if not condition:
        raise AssertionError(message)


def expect_equal(actual: object, expected: object, what: str) -> None:
    """Fail the claim unless `actual` equals `expected`."""
    if actual != expected:
        raise AssertionError(f"{what}: expected {_short(expected)}, got {_short(actual)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"  # noqa: PLR2004


class Receiving:
    """One `receive` call that runs beside the claim."""

    def __init__(self) -> None:
        self._ended = anyio.Event()
        self._error: Exception | None = None
        self._deliveries: list[Delivery] = []

    @property
    def done(self) -> bool:
        """It returned or raised."""
        return self._ended.is_set()

    async def run(self, source: Source, max_count: int) -> None:
        """Receive once; what it raises is kept for `result`."""
        try:
            self._deliveries = await source.receive(max_count, PLENTY)
        except Exception as error:  # noqa: BLE001 - handed to the claim
            self._error = error
        finally:
            self._ended.set()

    async def result(self, within_s: float) -> list[Delivery]:
        """What it returned."""
        with anyio.move_on_after(within_s):
            await self._ended.wait()
        expect(self.done, f"receive neither returned nor raised within {within_s:g} s")
        if self._error is not None:
            raise self._error
        return self._deliveries


class ConformanceContext:
    """What a claim gets: a broker of its own (or unique names on a shared one) and tools.

    Attributes:
        under_test: the driver under test.
        capabilities: its promises.
    """

    def __init__(self, under_test: DriverUnderTest[Any], broker: Any, tasks: TaskGroup) -> None:
        self.under_test = under_test
        self.capabilities = under_test.capabilities
        self._broker = broker
        self._tasks = tasks
        self._unique = uuid.uuid4().hex[:8]
        self._drivers: list[Driver] = []
        self._killed: list[Driver] = []

    # -- making things

    def name(self, name: str) -> str:
        """`name`, made unique to this claim."""
        return f"c{self._unique}.{name}"

    def new_driver(self, clock: Clock | None = None) -> Driver:
        """One more driver on the same broker, not opened; with a `clock` the claim needs the hook 'clocked'."""
        if clock is None:
            driver = self.under_test.driver(self._broker)
        elif self.under_test.clocked is None:
            raise TypeError("this claim needs the hook 'clocked'")
        else:
            driver = self.under_test.clocked(self._broker, clock)
        self._drivers.append(driver)
        return driver

    async def driver(self, clock: Clock | None = None) -> Driver:
        """One more driver on the same broker, open. The bench closes it. See `new_driver`."""
        driver = self.new_driver(clock)
        await driver.open()
        return driver

    def spec(
        self,
        *channels: str,
        group: str = "group",
        retry_count: int = 3,
        order_by: OrderBy = OrderBy.NONE,
        start: str = "earliest",
        pattern: str | None = None,
    ) -> SubscriptionSpec:
        """A subscription with unique names; without `channels` it reads ``in``."""
        name = self.name(group)
        return SubscriptionSpec(
            action=name,
            group=name,
            channels=() if pattern else tuple(map(self.name, channels or ("in",))),
            pattern=pattern,
            retry_base=name,
            retry_count=retry_count,
            order_by=order_by,
            start=start,
        )

    def message(
        self, payload: bytes, channel: str = "in", *, key: bytes | None = None, headers: Headers = ()
    ) -> Message:
        """A message for a channel with a unique name."""
        return Message(channel=self.name(channel), payload=payload, key=key, headers=headers)

    async def publish(self, driver: Driver, *payloads: bytes, channel: str = "in") -> list[str]:
        """Publish payloads without keys; returns the ids, each of which must have been confirmed."""
        return await self.publish_all(driver, [self.message(payload, channel) for payload in payloads])

    async def publish_all(self, driver: Driver, messages: Sequence[Message]) -> list[str]:
        """Publish messages; returns the ids, each of which must have been confirmed."""
        answers = await driver.publish(messages)
        expect_equal(len(answers), len(messages), "number of answers of publish")
        ids = [answer for answer in answers if isinstance(answer, str)]
        expect_equal(len(ids), len(messages), f"confirmed messages (answers: {_short(answers)})")
        return ids

    # -- receiving

    def receiving(self, source: Source, max_count: int = 100) -> Receiving:
        """Start a `receive` beside the claim."""
        receiving = Receiving()
        self._tasks.start_soon(receiving.run, source, max_count)
        return receiving

    async def take(self, source: Source, count: int, *, within_s: float | None = None) -> list[Delivery]:
        """Receive until `count` deliveries came."""
        taken: list[Delivery] = []
        # A little less than the claim may take, so that a failure says what is missing.
        patience_s = self.under_test.deadline_s * 0.8 if within_s is None else within_s
        with anyio.move_on_after(patience_s):
            while len(taken) < count:
                taken += await self._receive(source, count - len(taken))
        expect_equal(len(taken), count, f"deliveries within {patience_s:g} s ({payloads_of(taken)[:10]})")
        return taken

    async def take_some(self, source: Source, max_count: int) -> list[Delivery]:
        """Receive once, in time."""
        patience_s = self.under_test.deadline_s * 0.8
        taken: list[Delivery] = []
        with anyio.move_on_after(patience_s):
            taken = await self._receive(source, max_count)
        expect(taken, f"nothing came within {patience_s:g} s")
        return taken

    async def _receive(self, source: Source, max_count: int) -> list[Delivery]:
        await checkpoint()  # a driver that never suspends must not outwit the deadline
        batch = await source.receive(max_count, PLENTY)
        expect(batch, "receive returned nothing though stop was not called")
        expect(len(batch) <= max_count, f"asked for {max_count}, got {len(batch)}")
        return batch

    async def expect_quiet(self, *sources: Source, for_s: float | None = None) -> None:
        """Nothing comes from `sources`, which are stopped by this."""
        started = [self.receiving(source) for source in sources]
        await anyio.sleep(self.under_test.quiet_s if for_s is None else for_s)
        for source in sources:
            source.stop()
        for receiving in started:
            come = await receiving.result(self.under_test.deadline_s)
            expect(not come, f"came though nothing was to come: {describe(come)}")

    async def wait_for(
        self, condition: Callable[[], Awaitable[bool]], what: str, within_s: float | None = None
    ) -> None:
        """Wait until `condition` holds."""
        patience_s = self.under_test.slack_s + self.under_test.wake_s if within_s is None else within_s
        with anyio.move_on_after(patience_s):
            while not await condition():  # noqa: ASYNC110 - a broker is asked, nobody tells
                await anyio.sleep(self.under_test.quiet_s / 5)
            return
        raise AssertionError(f"not within {patience_s:g} s: {what}")

    # -- settling

    async def settle(self, source: Source, *settlements: Settlement) -> None:
        """Settle; all of it must take effect."""
        unsettled = await source.settle(settlements)
        expect(not unsettled, f"did not take effect: {[repr(one.error) for one in unsettled]}")

    async def ack(self, source: Source, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge; all of it must take effect."""
        await self.settle(source, *[Acked(delivery) for delivery in deliveries])

    def retry(
        self, delivery: Delivery, spec: SubscriptionSpec, after_s: float | None = None, now_ms: int | None = None
    ) -> RetryAt:
        """The settlement of a handler that asked for a retry; `now_ms` is the worker's time if it has its own."""
        outcome = Retry(after=self.under_test.delay_s if after_s is None else after_s)
        made = self._decide(outcome, delivery, spec, now_ms)
        if not isinstance(made, RetryAt):
            raise TypeError("the attempts of this delivery are used up")
        return made

    def snooze(self, delivery: Delivery, spec: SubscriptionSpec, after_s: float | None = None) -> RetryAt:
        """The settlement of a handler that is not ready for it yet."""
        outcome = Snooze(self.under_test.delay_s if after_s is None else after_s)
        made = self._decide(outcome, delivery, spec)
        if not isinstance(made, RetryAt):
            raise TypeError("it cannot be snoozed")
        return made

    def counted(self, delivery: Delivery, spec: SubscriptionSpec) -> Delivery:
        """A delivery of a retry channel as its worker has it."""
        return counted(delivery, self._route(spec))

    def dead_letter(self, delivery: Delivery, spec: SubscriptionSpec, reason: str = "hopeless") -> DeadLettered:
        """The settlement of a handler that gave up."""
        made = self._decide(DeadLetter(reason), delivery, spec)
        if not isinstance(made, DeadLettered):
            raise TypeError("not a dead letter")
        return made

    def _decide(
        self, outcome: Outcome, delivery: Delivery, spec: SubscriptionSpec, now_ms: int | None = None
    ) -> Settlement:
        return settle(outcome, delivery, self._route(spec), now_ms=self.now_ms() if now_ms is None else now_ms)

    def _route(self, spec: SubscriptionSpec) -> Route:
        policy = RetryPolicy(maximum_retries=spec.retry_count)
        return Route(action=spec.action, retry_base=spec.retry_base, policy=policy)

    # -- time and faults

    def now_ms(self) -> int:
        """The wall clock that due times follow."""
        return self.under_test.clock.now_ms()

    @property
    def takeover_s(self) -> float:
        """How long the deliveries of a dead or closed driver may stay away."""
        return (self.capabilities.redelivery_s or 0.0) + self.under_test.slack_s + self.under_test.wake_s

    async def kill(self, driver: Driver) -> None:
        """Make `driver` vanish without cleanup."""
        if self.under_test.kill is None:
            raise TypeError("this claim needs the hook 'kill'")
        self._killed.append(driver)
        await self.under_test.kill(self._broker, driver)

    async def stall(self, driver: Driver) -> None:
        """Make `driver` lose its leases while it lives."""
        if self.under_test.stall is None:
            raise TypeError("this claim needs the hook 'stall'")
        await self.under_test.stall(self._broker, driver)

    async def away(self) -> None:
        """Make the broker unreachable."""
        if self.under_test.away is None:
            raise TypeError("this claim needs the hook 'away'")
        await self.under_test.away(self._broker)

    async def back(self) -> None:
        """Bring the broker back."""
        if self.under_test.back is None:
            raise TypeError("this claim needs the hook 'back'")
        await self.under_test.back(self._broker)

    async def patiently(self, call: Callable[[], Awaitable[B]]) -> B:
        """The answer of `call`, asked again while the broker counts as unavailable; the claim's deadline bounds it."""
        while True:
            try:
                return await call()
            except DriverUnavailable:
                await anyio.sleep(self.under_test.quiet_s)

    async def close(self) -> None:
        """Close every driver that was not killed."""
        for driver in self._drivers:
            if driver not in self._killed:
                await driver.close()


def payloads_of(deliveries: Iterable[Delivery]) -> list[bytes]:
    """The payloads, in order."""
    return [delivery.payload for delivery in deliveries]


def describe(deliveries: Collection[Delivery]) -> str:
    """Deliveries as text for a failed claim."""
    shown = [f"{one.message_id} attempt {one.attempt} {_short(one.payload[:40])}" for one in list(deliveries)[:5]]
    return f"{len(deliveries)} deliveries: {'; '.join(shown)}"
