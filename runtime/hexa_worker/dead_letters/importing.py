"""Putting exported dead letters back: what is there is passed over, so an import can be run again at any time."""

from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from hexa_worker.core.message import Message
from hexa_worker.dead_letters.dead_letters import Tally
from hexa_worker.dead_letters.jsonl import identity
from hexa_worker.dead_letters.reading import read_channel
from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.errors import DriverError
from hexa_worker.faults import fault


class Importer:
    """Imports into the dead-letter channels of some subscriptions.

    A dead letter that is n times in the file and m times in its channel is imported n - m times.

    Args:
        driver: an open driver that knows the subscriptions.
        specs: the subscriptions.
        tally: what came of it is counted there.
    """

    def __init__(self, driver: Driver, specs: Sequence[SubscriptionSpec], tally: Tally) -> None:
        self._tally = tally
        self._driver = driver
        self._specs = {spec.action: spec for spec in specs}
        self._there: dict[str, Counter[bytes]] = {}

    async def put(self, letters: Sequence[tuple[str, Message]], numbers: Sequence[int]) -> None:
        """Import a batch; what came of it is counted.

        Args:
            letters: actions that there are, and records, their channels left open.
            numbers: of their lines, for errors.

        Raises:
            DriverUnavailable: some may have been stored; importing again puts it right.

        Cancellation: as DriverUnavailable.
        """
        fresh: list[Message] = []
        places: list[int] = []
        already = 0
        for (action, record), number in zip(letters, numbers, strict=True):
            channel = self._specs[action].dead_letter_channel
            there = await self._known(channel)
            name = identity(record.payload, record.key, record.headers)
            if there[name] > 0:
                there[name] -= 1
                already += 1
            else:
                fresh.append(msgspec.structs.replace(record, channel=channel))
                places.append(number)
        await fault("import-publish")
        answers = await self._driver.publish(fresh) if fresh else ()
        await fault("import-done")
        self._tally.already += already
        for number, answer in zip(places, answers, strict=True):
            if isinstance(answer, DriverError):
                self._tally.refused += 1
                self._tally.errors.append(f"line {number}: refused by the broker: {answer}")
            else:
                self._tally.done += 1

    async def _known(self, channel: str) -> Counter[bytes]:
        """The letters that are in a channel when it is met first."""
        found = self._there.get(channel)
        if found is None:
            found = self._there[channel] = Counter()
            async with aclosing(read_channel(self._driver, channel)) as deliveries:
                async for one in deliveries:
                    found[identity(one.payload, one.key, one.headers)] += 1
        return found
