"""What the parent tells this process while it runs: heard in a thread, done on the event loop."""

from collections.abc import Callable

import anyio

from hexa_worker.core.controls import Controls
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.processes.protocol import ControlsOrder, DumpFrame, DumpOrder, Order, WhoBlocks


class Orders:
    """See the module.

    Args:
        controls: what holds until the parent says something else.
        send: answers the parent.
        who_blocks: called, in the thread, when the parent asks who blocks the loop.

    Attributes:
        controls: what holds now.
        dump: called, in the thread, when the parent asks what lanes do.
    """

    def __init__(self, controls: Controls, send: Callable[[DumpFrame], object], who_blocks: Callable[[], None]) -> None:
        self.controls = controls
        self.dump: Callable[[int], DumpFrame] = _nothing_runs
        self._send = send
        self._who_blocks = who_blocks
        self._loop: LoopHandle | None = None
        self._news: anyio.Event | None = None

    def hear(self, order: Order) -> None:
        """The parent has said something. Called in the thread."""
        match order:
            case WhoBlocks():
                self._who_blocks()
            case ControlsOrder(controls):
                self.controls = controls
                if self._loop is not None:
                    self._loop.post(self._wake)

            case DumpOrder(number):
                self._send(self.dump(number))

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()

    async def run(self, control: Callable[[Controls], None]) -> None:
        """Have done what the parent wants, for ever. Cancellation: safe."""
        self._news = anyio.Event()
        self._loop = LoopHandle()
        while True:
            control(self.controls)
            await self._news.wait()
            self._news = anyio.Event()


def _nothing_runs(number: int) -> DumpFrame:
    return DumpFrame(number, (), ())
