"""What tests of dead letters share."""

from collections.abc import Sequence

from hexa_worker.core.lineage import EVENT_ID
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.outcome import Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, DeadLettered, Route, settle
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter
from hexa_worker.dead_letters.dead_letters import DeadLetters, Tally
from hexa_worker.dead_letters.filters import Filters
from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.drivers.memory import MemoryDriver, MemoryStore
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable
from tests.deadlines import in_time

SPECS = tuple(
    SubscriptionSpec(action=action, group=action, channels=("work",), retry_base=action, retry_count=2)
    for action in ("do", "more")
)


class Stopped:
    """A clock that is set by hand; its monotonic time moves when somebody sleeps on the real one."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


def dead(number: int, action: str = "do", error: type[Exception] = ValueError, text: str = "no") -> Message:
    """What the runtime writes when it gives up."""
    delivery = Delivery(
        channel="work", payload=b"%d" % number, headers=((EVENT_ID, b"e-%d" % number),), source="work", offset=number
    )
    route = Route(action=action, retry_base=action, policy=RetryPolicy(maximum_retries=0))
    settlement = settle(Raised(error(text)), delivery, route, now_ms=1_000_000 + number)
    assert isinstance(settlement, DeadLettered)
    return settlement.record


class Weak(MemoryDriver):
    """Fails where a test says so."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.remove_fails = False
        self.refused: set[bytes] = set()
        self.unreadable: set[str] = set()
        self.browsed: set[str] = set()

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        fit = [one for one in messages if one.payload not in self.refused]
        answers = iter(await super().publish(fit))
        return [next(answers) if one.payload not in self.refused else DriverRejected("no") for one in messages]

    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        self.browsed.add(channel)
        if channel in self.unreadable:
            raise DriverUnavailable(f"{channel} does not answer")
        return await super().browse(channel, after, limit, since_ms)

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        if self.remove_fails:
            raise DriverUnavailable("away")
        return await super().remove(channel, offsets)


def ignore(_tally: Tally) -> None:
    """Nobody watches."""


async def letters(driver: Driver, filters: Filters | None = None) -> list[StoredDeadLetter]:
    dead_letters = DeadLetters(driver, SPECS, Stopped())
    return [letter async for letter in dead_letters.letters(filters or Filters())]


async def handle(driver: Driver, error: Exception | None, action: str = "do", retries: int = 0) -> list[Delivery]:
    """Let the worker of `action` handle everything: it acknowledges, or fails with `error` until nothing waits.

    Returns:
        Every delivery there was.
    """
    spec = next(one for one in SPECS if one.action == action)
    source = await driver.subscribe(spec)
    route = Route(action=action, retry_base=action, policy=RetryPolicy(maximum_retries=retries, initial_interval_s=0))
    seen: list[Delivery] = []
    with in_time():
        while not (await source.backlog()).idle:
            taken = await source.receive(100, 1 << 20)
            seen += taken
            await source.settle(
                [Acked(one) if error is None else settle(Raised(error), one, route, now_ms=1_000_000) for one in taken]
            )
    await source.close()
    return seen
