"""Virtual time: an event loop whose clock jumps to the next timer when nothing else is left to do.

Nothing sleeps for real. Two things are never jumped over: a thread that works (a plain ``def`` handler), during
which time passes as it really does, and I/O of the user's own, which is given `IO_PATIENCE_S` to answer.
"""

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from math import inf
from typing import Any, Literal, TypeVar

import anyio
from anyio import CancelScope, to_thread

T = TypeVar("T")
Backend = Literal["asyncio", "trio"]

IO_PATIENCE_S = 0.05
EPOCH_MS = 1_767_225_600_000
"""Where virtual wall clocks start: 2026-01-01, the same in every run."""


class VirtualTime:
    """A clock (see `hexa_worker.clock.Clock`) and the way to run something in its time.

    Time stands still between two runs.

    Args:
        start_ms: the wall clock at the beginning.
    """

    def __init__(self, start_ms: int = EPOCH_MS) -> None:
        self._start_ms = start_ms
        self._passed_s = 0.0
        self._running: Callable[[], float] | None = None
        self._threads = 0
        self._threads_changed: Callable[[], None] = _nothing

    def monotonic(self) -> float:
        """Virtual seconds since the beginning."""
        return self._passed_s + (self._running() if self._running is not None else 0.0)

    def now_ms(self) -> int:
        """Virtual wall clock, milliseconds since the epoch."""
        return self._start_ms + int(round(self.monotonic(), 6) * 1000)

    @property
    def threads(self) -> int:
        """How many threads work right now."""
        return self._threads

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self._passed_s += seconds

    def run(self, function: Callable[..., Awaitable[T]], *args: Any, backend: Backend = "asyncio") -> T:
        """Run an async function on an event loop of its own, in this time; returns what it returns.

        Where a loop runs already (an async test) it waits for the end, and its own one runs in another thread.
        """
        if current_loop() is None:
            return self._run(function, args, backend)
        with ThreadPoolExecutor(1, "hexa-worker-harness") as thread:
            return thread.submit(self._run, function, args, backend).result()

    def _run(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...], backend: Backend) -> T:
        options = self._trio_options() if backend == "trio" else {"loop_factory": lambda: _VirtualLoop(self)}
        started = function if backend == "trio" else partial(_in_order, function)
        with self._watched_threads():
            try:
                return anyio.run(started, *args, backend=backend, backend_options=options)
            finally:
                self._passed_s = self.monotonic()
                self._running = None
                self._threads = 0
                self._threads_changed = _nothing

    def _trio_options(self) -> dict[str, Any]:
        from trio.testing import MockClock  # noqa: PLC0415 - needed on this backend only

        clock = MockClock(rate=0.0, autojump_threshold=0.0)
        self._running = clock.current_time

        def threads_changed() -> None:
            clock.rate = 1.0 if self._threads else 0.0
            clock.autojump_threshold = inf if self._threads else 0.0

        self._threads_changed = threads_changed
        return {"clock": clock}

    def thread_begins(self) -> None:
        """Note that a thread starts to work."""
        self._threads += 1
        self._threads_changed()

    def thread_ends(self) -> None:
        """Note that a thread has done its work."""
        self._threads -= 1
        self._threads_changed()

    @contextmanager
    def _watched_threads(self) -> Iterator[None]:
        """See every call of `anyio.to_thread.run_sync`; neither backend tells which of its threads work."""
        original = to_thread.run_sync

        async def run_sync(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            self.thread_begins()
            try:
                return await original(function, *args, **options)
            finally:
                self.thread_ends()

        setattr(to_thread, "run_sync", run_sync)  # noqa: B010 - an assignment would not type
        try:
            yield
        finally:
            setattr(to_thread, "run_sync", original)  # noqa: B010 - as above


async def _in_order(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    with _ordered():
        return await function(*args)


@contextmanager
def _ordered() -> Iterator[None]:
    """Let sets of cancel scopes have the same order in every run, as those of tasks have.

    anyio cancels the members of such sets one after the other, and Python orders them by where they are in memory: a
    run could not be repeated. Scopes of other loops keep their hash. To be entered on the loop itself.
    """
    kind, loop = type(CancelScope()), asyncio.get_running_loop()
    numbers: dict[int, int] = {}
    fresh = count(1)
    begin = kind.__init__

    def init(scope: Any, *arguments: Any, **options: Any) -> None:
        begin(scope, *arguments, **options)
        numbers.pop(id(scope), None)  # an older one's that was there
        if asyncio._get_running_loop() is loop:  # noqa: SLF001 - the public one raises where there is none
            numbers[id(scope)] = next(fresh)

    def number(scope: Any) -> int:
        return numbers.get(id(scope)) or object.__hash__(scope)

    setattr(kind, "__init__", init)  # noqa: B010 - an assignment would not type
    setattr(kind, "__hash__", number)  # noqa: B010 - as above
    try:
        yield
    finally:
        setattr(kind, "__init__", begin)  # noqa: B010 - as above
        setattr(kind, "__hash__", object.__hash__)  # noqa: B010 - as above


def current_loop() -> object | None:
    """The task that runs on this thread's event loop, or None where there is no loop."""
    try:
        return anyio.get_current_task()
    except RuntimeError:
        return None


def _nothing() -> None:
    """Nobody needs to know."""


class _VirtualSelector(selectors.DefaultSelector):
    """Where an asyncio loop waits: for I/O it looks, for time it only pretends."""

    def __init__(self, virtual: VirtualTime) -> None:
        super().__init__()
        self._virtual = virtual

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for I/O or until `timeout` seconds of virtual time have passed."""
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None or self._virtual.threads:
            return self._select_really(timeout)
        if len(self.get_map()) > 1:  # more than the loop's own wake-up pipe
            before = self._virtual.monotonic()
            events = self._select_really(min(timeout, IO_PATIENCE_S))
            timeout -= self._virtual.monotonic() - before
        if not events and timeout > 0:
            self._virtual.pass_s(timeout)
        return events

    def _select_really(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        started = time.perf_counter()
        events = super().select(timeout)
        self._virtual.pass_s(time.perf_counter() - started)
        return events


class _Task(asyncio.Task[Any]):
    """A task whose hash is the same in every run, see `_ordered`."""

    def __init__(self, coroutine: Any, *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual time."""

    def __init__(self, virtual: VirtualTime) -> None:
        self._virtual = virtual
        super().__init__(_VirtualSelector(virtual))
        numbers = count()
        self.set_task_factory(
            lambda loop, coroutine, **options: _Task(coroutine, number=next(numbers), loop=loop, **options)
        )

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.monotonic()

    def run_in_executor(  # type: ignore[override]  # typeshed's variadic generics say no more than this
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As asyncio's, and the thread is not jumped over."""
        self._virtual.thread_begins()
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: self._virtual.thread_ends())
        return future
