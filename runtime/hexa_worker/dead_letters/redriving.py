"""Sending dead letters round again.

A record is published and confirmed before its letter is removed. Cut short in between, a letter is in both places, so
whoever redrives next looks for copies first: in the retry channels, among the letters that died again, and in what is
remembered of handled ones. A letter whose copy is known is removed without being sent.

The order of looking matters. A copy moves from the retry channels to the dead letters or to the lineage, so they are
read in this order: it cannot slip past.
"""

from array import array
from collections.abc import Callable, Sequence
from contextlib import aclosing

import anyio
import msgspec

from hexa_worker.clock import Clock
from hexa_worker.core.lineage import REDRIVEN_FROM, lineage_of
from hexa_worker.core.message import header
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter, redriven
from hexa_worker.dead_letters.dead_letters import OnChange, OnProgress, Tally, meant, no_change
from hexa_worker.dead_letters.editing import EditFailed, Hook, edited
from hexa_worker.dead_letters.filters import Filters
from hexa_worker.dead_letters.reading import Chosen, read_channel, read_chosen, read_letters
from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.errors import DriverError
from hexa_worker.faults import fault

BATCH = 100
THROTTLED_BATCHES_PER_S = 10

Copy = tuple[str, str]
"""A letter's id and its event's id: what names the record that a redrive made of it."""
Handled = Callable[[str, int], frozenset[Copy]]
"""The copies of letters of a source that are remembered as handled since a time (milliseconds)."""


def nothing_handled(_source: str, _since_ms: int) -> frozenset[Copy]:
    """For redrives without a memory."""
    return frozenset()


class Withheld(msgspec.Struct, kw_only=True):
    """Letters that are withheld: one that looked alike was redriven and died of the same failure again.

    Attributes:
        count: of the letters that would have been redriven.
        witness: the newest letter that died again.
    """

    action: str
    fingerprint: str
    witness: StoredDeadLetter
    count: int = 0


class RedrivePlan(msgspec.Struct, frozen=True):
    """What a redrive is going to do.

    Attributes:
        chosen: the letters to be sent.
        withheld: those that are not.
        copies: what earlier redrives had sent already; only letters among them matter.
    """

    chosen: list[Chosen]
    withheld: list[Withheld]
    copies: set[Copy]

    @property
    def count(self) -> int:
        """How many letters are to be sent."""
        return sum(len(one.offsets) for one in self.chosen)


class Redriver:
    """Redrives dead letters of some subscriptions.

    Args:
        driver: an open driver that knows the subscriptions.
        specs: the subscriptions.
        clock: tells how old a letter is.
        on_change: see `OnChange`.
        handled: see `Handled`.
    """

    def __init__(
        self,
        driver: Driver,
        specs: Sequence[SubscriptionSpec],
        clock: Clock,
        on_change: OnChange = no_change,
        handled: Handled = nothing_handled,
    ) -> None:
        self._driver = driver
        self._specs = specs
        self._clock = clock
        self._on_change = on_change
        self._handled = handled

    async def plan(self, filters: Filters, limit: int | None = None, *, force: bool = False) -> RedrivePlan:
        """Decide which letters go: those that match, oldest first per subscription, at most `limit`.

        Args:
            filters: which are meant.
            limit: of letters to be sent; those withheld do not count.
            force: withhold nothing.

        Cancellation: safe; nothing is changed.
        """
        plan = RedrivePlan([], [], set())
        left = limit
        for spec in meant(self._specs, filters):
            if left == 0:
                break
            await self._find_copies(spec, plan.copies)
            picked = await self._pick(spec, filters, plan.copies)
            withheld = [] if force else [one for one in picked.withheld if one.fingerprint in picked.offsets]
            for one in withheld:
                one.count = len(picked.offsets.pop(one.fingerprint))
            plan.withheld.extend(withheld)
            offsets = array("q", sorted(offset for some in picked.offsets.values() for offset in some)[:left])
            left = None if left is None else left - len(offsets)
            if offsets:
                plan.chosen.append(Chosen(spec, offsets))
                for source in picked.sources:
                    plan.copies.update(self._handled(source, picked.oldest_ms))
        return plan

    async def run(
        self, plan: RedrivePlan, on_progress: OnProgress, rate: float | None = None, hook: Hook | None = None
    ) -> Tally:
        """Send what was planned.

        Args:
            plan: see `plan`.
            on_progress: called after each batch.
            rate: letters per second; None: as fast as the broker takes them.
            hook: changes each letter first.

        Raises:
            DriverUnavailable: the broker went away; what was done so far stays done.

        Cancellation: safe at any time, see the module.
        """
        tally = Tally()
        began = self._clock.monotonic()
        size = BATCH if rate is None else max(1, min(BATCH, int(rate / THROTTLED_BATCHES_PER_S)))
        for one in plan.chosen:
            async with aclosing(read_chosen(self._driver, one, size)) as batches:
                async for letters in batches:
                    await self._send(one.spec, letters, plan.copies, hook, tally)
                    on_progress(tally)
                    if rate is not None:
                        await anyio.sleep(max(began + tally.handled / rate - self._clock.monotonic(), 0))
        return tally

    async def _find_copies(self, spec: SubscriptionSpec, copies: set[Copy]) -> None:
        """Add the redriven records that are in the retry channels; without dead letters nobody asks."""
        if not await self._driver.browse(spec.dead_letter_channel, -1, 1):
            return
        for channel in spec.retry_channels:
            async with aclosing(read_channel(self._driver, channel)) as deliveries:
                async for delivery in deliveries:
                    before = header(delivery.headers, REDRIVEN_FROM)
                    if before is not None:
                        copies.add((before.decode(errors="replace"), lineage_of(delivery).event_id))

    async def _pick(self, spec: SubscriptionSpec, filters: Filters, copies: set[Copy]) -> "_Picked":
        now_ms = self._clock.now_ms()
        picked = _Picked()
        async with aclosing(read_letters(self._driver, spec)) as letters:
            async for letter in letters:
                if letter.redriven_from is not None:
                    copies.add((letter.redriven_from, letter.event_id))
                picked.add(letter, chosen=filters.match(letter, now_ms))
        return picked

    async def _send(
        self,
        spec: SubscriptionSpec,
        letters: Sequence[StoredDeadLetter],
        copies: set[Copy],
        hook: Hook | None,
        tally: Tally,
    ) -> None:
        already = [letter for letter in letters if (letter.id, letter.event_id) in copies]
        now_ms = self._clock.now_ms()
        sent, refused = await self._publish(spec, _drafted(letters, already, hook, tally), now_ms)
        await fault("redrive-remove")
        gone = [letter.offset for letter in (*already, *sent)]
        if gone:
            await self._driver.remove(spec.dead_letter_channel, gone)
        self._on_change("redriven", sent, now_ms)
        await fault("redrive-done")
        tally.already += len(already)
        tally.done += len(sent)
        tally.refused += len(refused)
        tally.errors += refused

    async def _publish(
        self, spec: SubscriptionSpec, letters: Sequence[StoredDeadLetter], now_ms: int
    ) -> tuple[list[StoredDeadLetter], list[str]]:
        """Publish letters; which were confirmed, and what was said about the others."""
        await fault("redrive-publish")
        if not letters:
            return [], []
        answers = await self._driver.publish([redriven(letter, spec.retry_base, now_ms) for letter in letters])
        pairs = list(zip(letters, answers, strict=True))
        sent = [letter for letter, answer in pairs if not isinstance(answer, DriverError)]
        return sent, [f"{letter.id}: {answer}" for letter, answer in pairs if isinstance(answer, DriverError)]


class _Picked:
    """The letters of one subscription that are meant, by fingerprint, and the fingerprints that still fail."""

    def __init__(self) -> None:
        self.offsets: dict[str, array[int]] = {}
        self.oldest_ms = 0
        self.sources: set[str] = set()
        self._withheld: dict[str, Withheld] = {}

    @property
    def withheld(self) -> list[Withheld]:
        return list(self._withheld.values())

    def add(self, letter: StoredDeadLetter, *, chosen: bool) -> None:
        if letter.still_fails:
            self._withheld[letter.fingerprint] = Withheld(
                action=letter.action, fingerprint=letter.fingerprint, witness=letter
            )
        if chosen:
            self.sources.add(letter.source)
            self.oldest_ms = min(self.oldest_ms or letter.dead_at_ms, letter.dead_at_ms)
            self.offsets.setdefault(letter.fingerprint, array("q")).append(letter.offset)


def _whole(letter: StoredDeadLetter, hook: Hook | None) -> StoredDeadLetter:
    """`letter`, changed by `hook`. One that is cut must not pass for the event; a hook may bring back its payload."""
    cut, letter = letter.cut, letter if hook is None else edited(letter, hook)
    if cut is not None and (hook is None or len(letter.delivery.payload) != cut.size):
        raise EditFailed(
            f"it is cut: {len(letter.delivery.payload):,} of {cut.size:,} bytes are here, the whole was {cut.id} in "
            f"{cut.channel}; emit that again and purge this, or bring the payload back by --transform"
        )
    return letter


def _drafted(
    letters: Sequence[StoredDeadLetter], already: Sequence[StoredDeadLetter], hook: Hook | None, tally: Tally
) -> list[StoredDeadLetter]:
    """The letters that are to be sent, changed by `hook`; those that it fails on, or that are cut, are counted."""
    known = {letter.id for letter in already}
    drafted: list[StoredDeadLetter] = []
    for letter in letters:
        if letter.id in known:
            continue
        try:
            drafted.append(_whole(letter, hook))
        except EditFailed as error:
            tally.untouched += 1
            tally.errors.append(f"{letter.id}: {error}")
    return drafted
