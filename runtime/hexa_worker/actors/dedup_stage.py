"""The deduplication stage: between pump and mailbox, it lets through what nobody else has handled or has in hand.

One round trip for a received batch. A duplicate is settled without running; a delivery whose event somebody else has
in hand waits here, holding its room in the mailbox, and is asked for again; where an order is promised, what follows
it waits behind it. Claims are extended while they are held. An effect that succeeded is done before its delivery is
acknowledged: a process that is killed in between is found out by the redelivery, while an effect that was acknowledged
and then forgotten would be carried out again for the next copy. One that failed is handed on once its record is stored.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import anyio

from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.backoff import Backoff
from hexa_worker.core.claims import SKIP, WAIT, Answer, Ask, Ending, Granted, GrantedClaim
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import order_key
from hexa_worker.core.settlement import Acked, DeadLettered, Postponed, RetryAt, Settlement, keeps_place
from hexa_worker.dedup.base import ClaimStore
from hexa_worker.errors import DriverError
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.telemetry.log import SubscriptionLog
from hexa_worker.telemetry.stats import Counters

ASK_AGAIN_S = 0.05
ASK_AGAIN_LONGEST_S = 1.0
EXTENSIONS = 3
"""How often a claim is extended within its lease."""
UNENDED_LIMIT = 100_000
"""Ends of claims that are kept for a store that is away; beyond it the oldest claims just run out."""
ENDINGS_AT_ONCE = 5_000
"""After an outage they are told in so many calls that each ends within the store's deadline."""
UNCLAIMED = Granted(0)
_End = tuple[Ending, Delivery]


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupSettings:
    """How a process deduplicates.

    Attributes:
        store: keeps the claims.
        lease_s: how long a claim lasts without being extended.
        ttl_s: how long a finished effect is remembered.
        on_failure: what happens to deliveries while the store is away.
    """

    store: ClaimStore
    lease_s: float
    ttl_s: float
    on_failure: Literal["process", "hold"]


class PendingClaim:
    """A delivery on its way through."""

    __slots__ = ("answer", "ask", "asking", "delivery", "gone", "order")

    def __init__(self, delivery: Delivery, ask: Ask, order: object) -> None:
        self.delivery = delivery
        self.ask = ask
        self.order = order
        self.answer: Answer | None = None
        self.asking = False
        self.gone = False


class Deduplicator:
    """One worker's claims.

    Args:
        plan: the subscription; its `effect_key` names the effects.
        claiming: see `DedupSettings`.
        mailbox: gets what may run.
        stats: counts.
        log: says it.
        skip: settles a duplicate.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        plan: Plan,
        claiming: DedupSettings,
        mailbox: Mailbox,
        stats: Counters,
        log: SubscriptionLog,
        skip: Callable[[Delivery], None],
    ) -> None:
        assert plan.effect_key is not None  # noqa: S101 - the worker looked
        self._key = plan.effect_key
        self._order_by = plan.order_by
        self._route = plan.route
        self._store = claiming.store
        self._hold = claiming.on_failure == "hold"
        self._lease_s = claiming.lease_s
        self._ttl_ms = round(claiming.ttl_s * 1000)
        self._mailbox = mailbox
        self._stats = stats
        self._log = log
        self._skip = skip
        self._names = _names()
        self._turns: list[PendingClaim] = []
        self._held: dict[int, tuple[GrantedClaim, Delivery]] = {}  # by the id of a delivery that the tuple keeps alive
        self._endings = deque[_End](maxlen=UNENDED_LIMIT)
        self._one_at_a_time = anyio.Lock()  # an extension must not overtake the end of its claim
        self._to_end = anyio.Event()
        self._waiting = anyio.Event()
        self._ended = anyio.Event()
        self._open = anyio.Event()
        self._open.set()
        self._away: DriverError | None = None

    # -- the pump's side

    async def accept(self, batch: Sequence[Delivery]) -> int:
        """Take a received batch; what may run is in the mailbox when this returns its bytes of payload.

        Cancellation: a call under way ends first, within the store's own deadline.
        """
        size = self._mailbox.hold(batch)
        turns = [
            PendingClaim(
                delivery,
                Ask(self._key(delivery), next(self._names), self._attempt(delivery)),
                order_key(self._order_by, delivery.key, delivery.channel),
            )
            for delivery in batch
        ]
        self._turns += turns
        await self._ask(turns)
        self._deal()
        return size

    def _attempt(self, delivery: Delivery) -> int:
        """The attempt that the store hears of: which of an event's records it is.

        What is retried in its place stays the same record, and its broker may forget how often it was tried: told a
        number, the store would take the same record with a lower one for a copy of an attempt that is over.
        """
        turn = _turn(delivery)
        return 0 if turn and keeps_place(delivery, self._route) else turn

    @property
    def withheld(self) -> DriverError | None:
        """Why deliveries are kept back, when the store is away: receive no more."""
        return None if self._open.is_set() else self._away

    async def wait_open(self) -> None:
        """Wait until the store is back, or `stop`. Cancellation: safe."""
        await self._open.wait()

    def stop(self) -> None:
        self._open.set()

    def take(self, sources: frozenset[str] | None = None) -> list[Delivery]:
        """Take back what waits here: all of it, or what came from `sources`."""
        taken = [turn for turn in self._turns if sources is None or turn.delivery.source in sources]
        for turn in taken:
            turn.gone = True
        self._turns = [turn for turn in self._turns if not turn.gone]
        self._mailbox.aside = len(self._turns)
        if not self._turns:
            self._open.set()  # nobody is left who would ask for the store: what is received next will
        return [turn.delivery for turn in taken]

    # -- asking

    async def _ask(self, turns: Sequence[PendingClaim]) -> None:
        for turn in turns:
            turn.asking = True
        try:
            with anyio.CancelScope(shield=True):
                answers = await self._store.claim([turn.ask for turn in turns])
        except DriverError as error:
            self._store_away(turns, error)
        else:
            self._open.set()
            for turn, answer in zip(turns, answers, strict=True):
                self._answered(turn, answer)
        finally:
            for turn in turns:
                turn.asking = False

    def _store_away(self, turns: Sequence[PendingClaim], error: DriverError) -> None:
        if self._hold:
            self._log.withheld(error)
            self._away = error
            if self._open.is_set():
                self._open = anyio.Event()
            return
        self._log.unclaimed(error)
        self._stats.unclaimed += sum(not turn.gone for turn in turns)
        for turn in turns:
            self._answered(turn, UNCLAIMED)

    def _answered(self, turn: PendingClaim, answer: Answer) -> None:
        if answer is WAIT and turn.answer is None:
            self._log.waiting(turn.delivery)
        turn.answer = answer
        if isinstance(answer, Granted):
            ask = turn.ask
            held = GrantedClaim(ask.key, ask.owner, answer.fence, ask.attempt)
            if not turn.gone:
                self._held[id(turn.delivery)] = held, turn.delivery
            elif answer.fence:  # it was handed back meanwhile
                self._end(held, turn.delivery, ask.attempt)
                self._to_end.set()

    def _deal(self) -> None:
        """Let go of what has its answer, in order."""
        run: list[Delivery] = []
        rest: list[PendingClaim] = []
        blocked = set[object]()
        for turn in self._turns:
            if turn.answer is SKIP:
                self._log.duplicate(turn.delivery)
                self._skip(turn.delivery)
            elif isinstance(turn.answer, Granted) and turn.order not in blocked:
                run.append(turn.delivery)
            else:
                rest.append(turn)
                if turn.order is not None:
                    blocked.add(turn.order)
        self._turns = rest
        self._mailbox.aside = len(rest)
        if run:
            self._mailbox.queue(run)
        if rest:
            self._waiting.set()

    async def run_waiting(self) -> None:
        """Ask again for what waits, for ever."""
        while True:
            await self._waiting.wait()
            backoff = Backoff(ASK_AGAIN_S, ASK_AGAIN_LONGEST_S)
            while self._turns:
                self._ended = anyio.Event()
                with anyio.move_on_after(backoff.next_s()):
                    await self._ended.wait()
                again = [turn for turn in self._turns if not turn.asking and not isinstance(turn.answer, Granted)]
                if again:
                    await self._ask(again)
                self._deal()
            self._waiting = anyio.Event()

    # -- the settler's side

    async def settling(self, batch: Sequence[Settlement]) -> None:
        """These are about to be settled: tell the store what is done.

        A store that is away hears of it later; the deliveries are acknowledged all the same, for they are handled.

        Cancellation: a call under way ends first, within the store's own deadline.
        """
        acked = [self._held.pop(id(one.delivery), None) for one in batch if type(one) is Acked]
        done = [(Ending(found[0], None, self._ttl_ms), found[1]) for found in acked if found is not None]
        if done and not await self._tell(done):
            self._to_end.set()

    def settled(self, batch: Sequence[Settlement]) -> None:
        """These are settled: failures are handed on to their next attempt."""
        for settlement in batch:
            if type(settlement) is Acked or type(settlement) is Postponed:
                continue
            if isinstance(settlement, RetryAt):
                keep_ms = self._ttl_ms + round(settlement.delay_s * 1000)
                self._over(settlement.delivery, _turn(settlement.delivery) + 1, keep_ms)
            elif isinstance(settlement, DeadLettered):
                self._over(settlement.delivery, None)
            else:
                self._hand_back(settlement.delivery)
            self._to_end.set()

    def postponed(self, delivery: Delivery, again: Delivery) -> None:
        """`again` is what `delivery` was: its claim is held on, so that it is no duplicate of its own."""
        held = self._held.pop(id(delivery), None)
        if held is not None:
            self._held[id(again)] = held[0], again

    def lost(self, delivery: Delivery) -> None:
        """Its lease was lost: somebody else has it."""
        self._hand_back(delivery)
        self._to_end.set()

    def _hand_back(self, delivery: Delivery) -> None:
        """Whoever gets it next may get it as the attempt that it was here at first."""
        held = self._held.get(id(delivery))
        if held is not None:
            self._over(delivery, held[0].attempt)

    def fence(self, delivery: Delivery) -> int | None:
        """The fence of a delivery's claim; None without one."""
        held = self._held.get(id(delivery))
        return None if held is None else held[0].fence or None

    def _over(self, delivery: Delivery, following: int | None, keep_ms: int | None = None) -> None:
        held = self._held.pop(id(delivery), None)
        if held is not None:
            self._end(held[0], delivery, following, keep_ms)

    def _end(self, held: GrantedClaim, delivery: Delivery, following: int | None, keep_ms: int | None = None) -> None:
        self._endings.append((Ending(held, following, self._ttl_ms if keep_ms is None else keep_ms), delivery))

    async def run_endings(self) -> None:
        """Tell the store what failed or was handed back, and what it could not be told before; for ever."""
        while True:
            await self._to_end.wait()
            self._to_end = anyio.Event()
            backoff = Backoff()
            while self._endings:
                if not await self._tell(self._oldest()):
                    await backoff.wait()

    async def flush(self) -> None:
        """Tell the store what is over, once. Cancellation: a call under way ends first."""
        while self._endings and await self._tell(self._oldest()):
            pass

    def _oldest(self) -> list[_End]:
        return [self._endings.popleft() for _ in range(min(len(self._endings), ENDINGS_AT_ONCE))]

    async def _tell(self, batch: Sequence[_End]) -> bool:
        """Tell the store of ends; False when it is away, and they are kept."""
        told = False
        try:
            async with self._one_at_a_time:
                with anyio.CancelScope(shield=True):
                    ended = await self._store.end([ending for ending, _ in batch])
            told = True
        except DriverError:
            return False
        finally:
            if not told:
                self._endings.extend(batch)  # beyond its limit it forgets the oldest
        for (ending, delivery), own in zip(batch, ended, strict=True):
            if not own and ending.held.fence:
                self._overtaken(delivery)
        if self._turns:
            self._ended.set()  # perhaps they waited for one of these
        return True

    def _overtaken(self, delivery: Delivery) -> None:
        self._stats.overtaken += 1
        self._log.overtaken(delivery)

    # -- what is held

    async def run_extending(self) -> None:
        """Extend what is held, for ever."""
        while True:
            await anyio.sleep(self._lease_s / EXTENSIONS)
            if self._held:
                await self._extend()

    async def _extend(self) -> None:
        async with self._one_at_a_time:
            held = list(self._held.values())
            try:
                with anyio.CancelScope(shield=True):
                    extended = await self._store.extend([one for one, _ in held])
            except DriverError:
                return  # said by others; leases last for some tries
        for (one, delivery), own in zip(held, extended, strict=True):
            if not own and self._held.pop(id(delivery), None) is not None and one.fence:
                self._overtaken(delivery)


def _turn(delivery: Delivery) -> int:
    """How many records of an event came before this one in its subscription: each retry is one, and each snooze."""
    return delivery.attempt + delivery.snoozes


def _names() -> Iterator[str]:
    """Names of owners, never used twice by any process."""
    process, number = os.urandom(8).hex(), 0
    while True:
        number += 1
        yield f"{process}:{number}"
