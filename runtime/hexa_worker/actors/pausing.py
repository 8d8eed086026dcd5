"""What an operator has paused: a whole subscription receives nothing, a paused key is received and kept.

What was passed on before goes on to its end. Nobody else gets what is kept: its lease is kept alive by the driver, as
for all that is in flight, and a stop releases it.
"""

from collections import deque
from collections.abc import Awaitable, Callable

import anyio

from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.core.controls import NOT_PAUSED, Pause
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy, OrderKey, order_key

PassOn = Callable[[list[Delivery]], Awaitable[None]]


class PauseSwitch:
    """What is paused of one subscription, across the runs of its worker.

    Attributes:
        pause: it.
        held: it stands still because of an event that used up its retries.
    """

    def __init__(self) -> None:
        self.pause: Pause = NOT_PAUSED
        self.held = False
        self._changed = anyio.Event()

    def set(self, pause: Pause) -> None:
        """Pause this from now on, and nothing else."""
        if pause != self.pause:
            self.pause = pause
            self.wake()

    def set_held(self, *, held: bool) -> None:
        """Stand still from now on, or go on."""
        if held is not self.held:
            self.held = held
            self.wake()

    def wake(self) -> None:
        """Who waits for a change shall look again."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_changed(self) -> None:
        """Wait until something changes from now on. Cancellation: safe."""
        await self._changed.wait()


class PausedDeliveries:
    """What one worker has received and keeps, because it is paused; between its pump and all that follows.

    Args:
        switch: says what is paused.
        mailbox: what is kept takes room in it, and none of its window.
        order_by: what must not overtake what is kept.
        on_full: called when what is kept leaves no room for anything else.

    Attributes:
        switch: the same.
    """

    def __init__(self, switch: PauseSwitch, mailbox: Mailbox, order_by: OrderBy, on_full: Callable[[], None]) -> None:
        self.switch = switch
        self._mailbox = mailbox
        self._order_by = order_by
        self._on_full = on_full
        self._kept: deque[Delivery] = deque()
        self._orders: set[OrderKey] = set()  # of what is kept
        self._moved: anyio.Event | None = None  # while something that was kept is being passed on

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def active(self) -> bool:
        """Whether `keep` may have something to do."""
        return bool(self.switch.pause or self._kept or self._moved)

    def keep(self, batch: list[Delivery]) -> list[Delivery]:
        """Keep what is paused, and what must not overtake it; returns the rest."""
        passed: list[Delivery] = []
        kept: list[Delivery] = []
        for one in batch:
            stays = self._moved is not None or self._is_paused(one) or self._order(one) in self._orders
            (kept if stays else passed).append(one)
            self._note_order(one, stays=stays)
        self._mailbox.hold(kept)
        self._mailbox.paused += len(kept)
        self._kept.extend(kept)
        if kept and not self.switch.pause.whole and self._mailbox.full_of_paused:
            self._on_full()
        return passed

    async def run(self, pass_on: PassOn) -> None:
        """Pass on what may go on, for ever. Cancellation: safe."""
        while True:
            while batch := self._take_resumed():
                self._moved = anyio.Event()
                try:
                    await pass_on(batch)
                finally:
                    self._moved.set()
                    self._moved = None
            await self.switch.wait_changed()

    async def wait_moved(self) -> None:
        """Wait until nothing is on its way any more. Cancellation: safe."""
        while self._moved is not None:
            await self._moved.wait()

    def take(self, sources: frozenset[str] | None) -> list[Delivery]:
        """Take back what is kept: all of it, or what came from `sources`. It has its room still."""
        taken = [one for one in self._kept if sources is None or one.source in sources]
        self._keep_only([one for one in self._kept if sources is not None and one.source not in sources])
        return taken

    def _take_resumed(self) -> list[Delivery]:
        """Take what is not paused any more, in its order; it gives up its room."""
        resumed: list[Delivery] = []
        kept: list[Delivery] = []
        before, self._orders = self._kept, set()
        for one in before:
            stays = self._is_paused(one) or self._order(one) in self._orders
            (kept if stays else resumed).append(one)
            self._note_order(one, stays=stays)
        self._keep_only(kept)
        self._mailbox.release(len(resumed), sum([len(one.payload) for one in resumed]))
        return resumed

    def _keep_only(self, kept: list[Delivery]) -> None:
        self._mailbox.paused -= len(self._kept) - len(kept)
        self._kept = deque(kept)
        self._orders = {order for one in kept if (order := self._order(one)) is not None}

    def _note_order(self, delivery: Delivery, *, stays: bool) -> None:
        order = self._order(delivery) if stays else None
        if order is not None:
            self._orders.add(order)

    def _is_paused(self, delivery: Delivery) -> bool:
        pause = self.switch.pause
        return pause.whole or delivery.key in pause.keys

    def _order(self, delivery: Delivery) -> OrderKey | None:
        return order_key(self._order_by, delivery.key, delivery.channel)
