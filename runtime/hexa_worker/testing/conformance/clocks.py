"""Claims about retries when the worker's wall clock is wrong, or is set: a delay is a length of time, not a time."""
# ruff: noqa: D103 - the name of a claim says what it claims

from hexa_worker.clock import Clock
from hexa_worker.drivers.base import Source, SubscriptionSpec
from hexa_worker.testing.conformance.context import ConformanceContext, expect
from hexa_worker.testing.conformance.suite import claim

BEHIND_MS = -20_000
JUMP_MS = 600_000
ROUNDING_S = 0.001
"""Wall clocks count whole milliseconds."""


class ShiftedClock:
    """The clock of a machine whose wall clock is wrong by `shift_ms`.

    Args:
        clock: the right one.
        shift_ms: by how much it is ahead; may be set at any time.
    """

    def __init__(self, clock: Clock, shift_ms: int) -> None:
        self._clock = clock
        self.shift_ms = shift_ms
        self.monotonic = clock.monotonic

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self._clock.now_ms() + self.shift_ms


async def _expect_delay(
    bench: ConformanceContext, source: Source, spec: SubscriptionSpec, clock: ShiftedClock, jump_ms: int
) -> None:
    """A retry that waits while the clock jumps comes after its delay, and long before the clock says so."""
    delay_s = bench.under_test.delay_s
    (one,) = await bench.take(source, 1)
    began = clock.monotonic()
    retry = bench.retry(one, spec, now_ms=clock.now_ms())
    await bench.settle(source, retry)
    receiving = bench.receiving(source)
    clock.shift_ms += jump_ms
    again = await receiving.result(bench.under_test.deadline_s)
    waited_s = clock.monotonic() - began
    await bench.ack(source, again)
    expect(
        waited_s >= delay_s - ROUNDING_S,
        f"early: after {waited_s:.3f} s, its delay is {delay_s:g} s, the clock jumped by {jump_ms / 1000:g} s",
    )


@claim("clocked")
async def a_retry_waits_for_its_delay_whatever_the_wall_clock_says(bench: ConformanceContext) -> None:
    clock = ShiftedClock(bench.under_test.clock, BEHIND_MS)
    driver, spec = await bench.driver(clock), bench.spec()
    source = await driver.subscribe(spec)
    for jump_ms in (0, JUMP_MS, -JUMP_MS):
        clock.shift_ms = BEHIND_MS  # of one that is ahead of the broker's a broker that waits itself may make too much
        await bench.publish(driver, b"x")
        await _expect_delay(bench, source, spec, clock, jump_ms)
