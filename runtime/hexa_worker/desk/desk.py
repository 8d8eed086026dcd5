"""The desk at work: it needs a driver's browse, publish and remove, nothing else.

A redrive publishes first and removes after the broker's confirmation. Cut short in between, a letter is in both
places; the next redrive sends it again under the same event id.
"""

from array import array
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Literal

import anyio
import msgspec

from hexa_worker.clock import Clock
from hexa_worker.desk.letters import DeadLetter, Filters, read_letter, redriven
from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.errors import DriverError

PAGE = 500
BATCH = 100
THROTTLED_BATCHES_PER_S = 10


class Chosen(msgspec.Struct, frozen=True):
    """Dead letters of one subscription that a command means: those that were there when it began.

    A letter that dies again during a redrive is not among them, so a redrive of everything ends.
    """

    spec: SubscriptionSpec
    offsets: "array[int]"


class Tally(msgspec.Struct):
    """What a redrive or purge has done so far."""

    done: int = 0
    refused: int = 0
    errors: list[str] = msgspec.field(default_factory=list)


Told = Callable[[Tally], None]
Happened = Callable[[Literal["redriven", "purged"], Sequence[DeadLetter], int], None]
"""Told what was done with letters, and when it was begun (milliseconds); for the lineage."""


class Desk:
    """Everything that can be done with the dead letters of some subscriptions.

    Args:
        driver: an open driver that knows the subscriptions.
        specs: the subscriptions.
        clock: tells how old a letter is.
        happened: see `Happened`.
    """

    def __init__(
        self, driver: Driver, specs: Sequence[SubscriptionSpec], clock: Clock, happened: Happened | None = None
    ) -> None:
        self._driver = driver
        self._specs = specs
        self._clock = clock
        self._happened = happened or (lambda _outcome, _letters, _at_ms: None)

    async def letters(self, filters: Filters) -> AsyncGenerator[DeadLetter, None]:
        """The letters that match, subscription by subscription, oldest first.

        Cancellation: safe; nothing is changed.
        """
        now_ms = self._clock.now_ms()
        for spec in self._meant(filters):
            async with aclosing(self._read(spec)) as letters:
                async for letter in letters:
                    if filters.match(letter, now_ms):
                        yield letter

    async def find(self, letter_id: str) -> DeadLetter | None:
        """The letter with this id, or None. Cancellation: safe."""
        base, _, number = letter_id.rpartition("-")
        for spec in self._specs:
            if spec.dead_letter_channel == base and number.isdecimal():
                found = await self._driver.browse(base, int(number) - 1, 1)
                if found and found[0].message_id == letter_id:
                    return read_letter(found[0], spec.action)
        async with aclosing(self.letters(Filters(ids=frozenset({letter_id})))) as letters:
            return await anext(letters, None)

    async def choose(self, filters: Filters, limit: int | None = None) -> list[Chosen]:
        """The places of the letters that match, oldest first per subscription, at most `limit`.

        Cancellation: safe.
        """
        now_ms = self._clock.now_ms()
        chosen: list[Chosen] = []
        left = limit if limit is not None else -1
        for spec in self._meant(filters):
            offsets = array("q")
            async with aclosing(self._read(spec)) as letters:
                async for letter in letters:
                    if left == 0:
                        break
                    if filters.match(letter, now_ms):
                        offsets.append(letter.offset)
                        left -= 1
            if offsets:
                chosen.append(Chosen(spec, offsets))
        return chosen

    async def redrive(self, chosen: Sequence[Chosen], told: Told, rate: float | None = None) -> Tally:
        """Send the chosen letters round again.

        Args:
            chosen: see `choose`.
            told: called after each batch.
            rate: letters per second; None: as fast as the broker takes them.

        Raises:
            DriverUnavailable: the broker went away; what was done so far stays done.

        Cancellation: safe at any time, see the module.
        """
        tally = Tally()
        began = self._clock.monotonic()
        size = BATCH if rate is None else max(1, min(BATCH, int(rate / THROTTLED_BATCHES_PER_S)))
        for one in chosen:
            async for letters in self._batches(one, size):
                await self._redrive_batch(one.spec, letters, tally)
                told(tally)
                if rate is not None:
                    await anyio.sleep(began + (tally.done + tally.refused) / rate - self._clock.monotonic())
        return tally

    async def purge(self, chosen: Sequence[Chosen], told: Told) -> Tally:
        """Delete the chosen letters for good. Raises and cancellation: as `redrive`."""
        tally = Tally()
        for one in chosen:
            async for letters in self._batches(one, PAGE):
                now_ms = self._clock.now_ms()
                tally.done += await self._remove(one.spec, letters)
                self._happened("purged", letters, now_ms)
                told(tally)
        return tally

    async def _redrive_batch(self, spec: SubscriptionSpec, letters: Sequence[DeadLetter], tally: Tally) -> None:
        now_ms = self._clock.now_ms()
        answers = await self._driver.publish([redriven(letter, spec.retry_base, now_ms) for letter in letters])
        sent: list[DeadLetter] = []
        for letter, answer in zip(letters, answers, strict=True):
            if isinstance(answer, DriverError):
                tally.refused += 1
                tally.errors.append(f"{letter.id}: {answer}")
            else:
                sent.append(letter)
        await self._remove(spec, sent)
        self._happened("redriven", sent, now_ms)
        tally.done += len(sent)

    async def _remove(self, spec: SubscriptionSpec, letters: Sequence[DeadLetter]) -> int:
        if not letters:
            return 0
        return await self._driver.remove(spec.dead_letter_channel, [letter.offset for letter in letters])

    def _meant(self, filters: Filters) -> list[SubscriptionSpec]:
        return [spec for spec in self._specs if filters.action in {None, spec.action}]

    async def _read(self, spec: SubscriptionSpec) -> AsyncGenerator[DeadLetter, None]:
        after = -1
        while page := await self._driver.browse(spec.dead_letter_channel, after, PAGE):
            for delivery in page:
                yield read_letter(delivery, spec.action)
            after = page[-1].offset

    async def _batches(self, chosen: Chosen, size: int) -> AsyncGenerator[list[DeadLetter], None]:
        """The chosen letters that are still there, read again in batches."""
        offsets = chosen.offsets
        place = 0
        while place < len(offsets):
            page = await self._driver.browse(chosen.spec.dead_letter_channel, offsets[place] - 1, size)
            if not page:
                return
            reached = bisect_right(offsets, page[-1].offset)
            wanted = set(offsets[place:reached])
            place = reached
            letters = [read_letter(delivery, chosen.spec.action) for delivery in page if delivery.offset in wanted]
            if letters:
                yield letters
