"""Reading dead letters through a driver, page by page: however many there are, few are in memory."""

from array import array
from bisect import bisect_right
from collections.abc import AsyncGenerator

import msgspec

from hexa_worker.core.message import Delivery
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter, read_letter
from hexa_worker.drivers.base import Driver, SubscriptionSpec

PAGE = 500


class Chosen(msgspec.Struct, frozen=True):
    """Dead letters of one subscription that a command means: those that were there when it began.

    A letter that dies again during a redrive is not among them, so a redrive of everything ends.
    """

    spec: SubscriptionSpec
    offsets: "array[int]"


async def read_channel(driver: Driver, channel: str) -> AsyncGenerator[Delivery, None]:
    """All records of a channel, oldest first. Raises DriverUnavailable. Cancellation: safe."""
    after = -1
    while page := await driver.browse(channel, after, PAGE):
        for delivery in page:
            yield delivery
        after = page[-1].offset


async def read_letters(driver: Driver, spec: SubscriptionSpec) -> AsyncGenerator[StoredDeadLetter, None]:
    """All dead letters of a subscription, oldest first. Raises and cancellation: as `read_channel`."""
    async for delivery in read_channel(driver, spec.dead_letter_channel):
        yield read_letter(delivery, spec.action)


async def read_chosen(driver: Driver, chosen: Chosen, size: int) -> AsyncGenerator[list[StoredDeadLetter], None]:
    """The chosen letters that are still there, read again in batches. Raises and cancellation: as `read_channel`."""
    offsets = chosen.offsets
    place = 0
    while place < len(offsets):
        page = await driver.browse(chosen.spec.dead_letter_channel, offsets[place] - 1, size)
        if not page:
            return
        reached = bisect_right(offsets, page[-1].offset)
        wanted = set(offsets[place:reached])
        place = reached
        letters = [read_letter(delivery, chosen.spec.action) for delivery in page if delivery.offset in wanted]
        if letters:
            yield letters
