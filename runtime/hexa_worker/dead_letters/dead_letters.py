"""Find, purge and change dead letters with a driver's browse and remove. Redrives have a module of their own."""

from array import array
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Literal

import msgspec

from hexa_worker.clock import Clock
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter, read_letter
from hexa_worker.dead_letters.filters import Filters
from hexa_worker.dead_letters.reading import PAGE, Chosen, read_chosen, read_letters
from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.errors import DriverError


class Tally(msgspec.Struct):
    """What a redrive, purge or import has done so far.

    Attributes:
        done: dead letters that were redriven, purged or imported.
        already: those that an interrupted command had dealt with before.
        refused: those that the broker did not take; they stay.
        untouched: those that an edit hook failed on, or that are cut; they stay.
        errors: what was said about the latter two.
    """

    done: int = 0
    already: int = 0
    refused: int = 0
    untouched: int = 0
    errors: list[str] = msgspec.field(default_factory=list)

    @property
    def handled(self) -> int:
        return self.done + self.already + self.refused + self.untouched


OnProgress = Callable[[Tally], None]
OnChange = Callable[[Literal["redriven", "purged"], Sequence[StoredDeadLetter], int], None]
"""Told what was done with letters, and when it was begun (milliseconds); for the lineage."""


def no_change(_outcome: Literal["redriven", "purged"], _letters: Sequence[StoredDeadLetter], _at_ms: int) -> None:
    """For those whose work is no part of a lineage."""


class DeadLetters:
    """What can be done with the dead letters of some subscriptions, beside redriving them.

    Args:
        driver: an open driver that knows the subscriptions.
        specs: the subscriptions.
        clock: tells how old a letter is.
        on_change: see `OnChange`.
    """

    def __init__(
        self, driver: Driver, specs: Sequence[SubscriptionSpec], clock: Clock, on_change: OnChange = no_change
    ) -> None:
        self._driver = driver
        self._specs = specs
        self._clock = clock
        self._on_change = on_change

    async def letters(
        self, filters: Filters, unread: dict[str, DriverError] | None = None
    ) -> AsyncGenerator[StoredDeadLetter, None]:
        """The letters that match, subscription by subscription, oldest first.

        Args:
            filters: which letters.
            unread: gets the actions whose letters cannot be read, and why; without it that is raised.

        Cancellation: safe; nothing is changed.
        """
        now_ms = self._clock.now_ms()
        for spec in meant(self._specs, filters):
            try:
                async with aclosing(read_letters(self._driver, spec)) as letters:
                    async for letter in letters:
                        if filters.match(letter, now_ms):
                            yield letter
            except DriverError as error:
                if unread is None:
                    raise
                unread[spec.action] = error

    async def find(self, letter_id: str) -> StoredDeadLetter | None:
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
        for spec in meant(self._specs, filters):
            offsets = array("q")
            async with aclosing(read_letters(self._driver, spec)) as letters:
                async for letter in letters:
                    if left == 0:
                        break
                    if filters.match(letter, now_ms):
                        offsets.append(letter.offset)
                        left -= 1
            if offsets:
                chosen.append(Chosen(spec, offsets))
        return chosen

    async def purge(self, chosen: Sequence[Chosen], on_progress: OnProgress) -> Tally:
        """Delete the chosen letters for good.

        Args:
            chosen: see `choose`.
            on_progress: called after each batch.

        Raises:
            DriverUnavailable: the broker went away; what was done so far stays done.

        Cancellation: safe at any time; it can be run again.
        """
        tally = Tally()
        for one in chosen:
            async with aclosing(read_chosen(self._driver, one, PAGE)) as batches:
                async for letters in batches:
                    now_ms = self._clock.now_ms()
                    offsets = [letter.offset for letter in letters]
                    tally.done += await self._driver.remove(one.spec.dead_letter_channel, offsets)
                    self._on_change("purged", letters, now_ms)
                    on_progress(tally)
        return tally


def meant(specs: Sequence[SubscriptionSpec], filters: Filters) -> list[SubscriptionSpec]:
    """The subscriptions that `filters` may mean letters of."""
    return [spec for spec in specs if filters.action in {None, spec.action}]
