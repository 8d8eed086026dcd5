"""A bridge to asyncio: how a driver that lives on asyncio serves a runtime on any event loop.

On asyncio the driver's own methods are called, nothing is in between. Elsewhere (trio) the driver lives on an
asyncio loop in a thread of its own, and each call hops there and back: some 0.1 ms for each batch.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, Generic, TypeVar

import anyio

from hexa_worker.drivers.base import (
    Capabilities,
    Driver,
    Revoked,
    Source,
    SubscriptionSpec,
    nothing_revoked,
)
from hexa_worker.drivers.kit.forwarding import ForwardingDriver, ForwardingSource
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.errors import DriverUnavailable

T = TypeVar("T")
JOIN_S = 5.0
"""How long the asyncio thread may take to end."""


D = TypeVar("D", bound=Driver)


class AsyncioThread:
    """An asyncio loop in a thread of its own, called from a trio loop."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._calls = set[Callable[[], None]]()
        self._thread = threading.Thread(target=self._run, name="hexa-worker-asyncio", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
            self._loop.close()
            for told in tuple(self._calls):  # what came too late to be begun, or would not end
                told()

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Await ``function(*args)`` on the asyncio thread.

        Cancellation: the call is cancelled over there, and its end is awaited.
        """
        home = LoopHandle()
        ended = anyio.Event()
        result: list[T] = []
        errors: list[BaseException] = []
        tasks: list[asyncio.Task[None]] = []

        def told() -> None:
            home.post(ended.set)

        async def run() -> None:
            try:
                result.append(await function(*args))
            except BaseException as error:  # noqa: BLE001 - it is raised at home
                errors.append(error)

        def start() -> None:
            # Told by the task's end, for one that is cancelled before its first step never gets into `run`.
            task = self._loop.create_task(run())
            task.add_done_callback(lambda _: told())
            tasks.append(task)

        def cancel() -> None:
            tasks[0].cancel()

        self._calls.add(told)
        try:
            await self._ended(ended, start, cancel)
        finally:
            self._calls.discard(told)
        if result:
            return result[0]
        if not errors:
            raise DriverUnavailable("the driver is closed")
        if isinstance(errors[0], asyncio.CancelledError):
            raise DriverUnavailable("a call of the broker's client was cancelled") from errors[0]
        raise errors[0]

    async def _ended(self, ended: anyio.Event, start: Callable[[], None], cancel: Callable[[], None]) -> None:
        """Call `start` over there and wait until `ended`; cancelled, call `cancel` and wait all the same."""
        # A context of its own: in the caller's, anyio would take the thread for trio.
        try:
            self._loop.call_soon_threadsafe(start, context=Context())
        except RuntimeError as error:
            raise DriverUnavailable("the driver is closed") from error
        try:
            await ended.wait()
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(RuntimeError):
                self._loop.call_soon_threadsafe(cancel)
                await ended.wait()
            raise

    def tell(self, function: Callable[[], object]) -> None:
        """Have ``function()`` called on the asyncio thread, soon. Ignored once that has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, context=Context())

    async def close(self) -> None:
        """End the loop and its thread. Idempotent."""
        self.tell(self._loop.stop)
        await anyio.to_thread.run_sync(self._thread.join, JOIN_S, abandon_on_cancel=True)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - only where it is installed
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def on_asyncio() -> bool:
    """Whether the caller runs on an asyncio loop, and needs no thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _at_home(revoked: Revoked) -> Revoked:
    """`revoked`, to be called on the asyncio thread, run on the trio loop that this is called on."""
    import trio.lowlevel  # noqa: PLC0415 - the bridge is for trio only

    home = LoopHandle()

    async def run_at_home(sources: frozenset[str]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        scope = trio.CancelScope()

        def finish(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        async def at_home() -> None:
            error: BaseException | None = None
            try:
                with scope:
                    await revoked(sources)
            except Exception as caught:  # noqa: BLE001 - an error in a system task would end trio
                error = caught
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, error)

        home.post(trio.lowlevel.spawn_system_task, at_home)
        try:
            await done
        except asyncio.CancelledError:
            home.post(scope.cancel)
            raise

    return run_at_home


class BridgedSource(ForwardingSource):
    """A source that lives on the asyncio thread."""

    def __init__(self, thread: AsyncioThread, source: Source) -> None:
        super().__init__(source)
        self._asyncio = thread

    async def _call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await self._asyncio.call(function, *args)  # type: ignore[arg-type]  # sources' methods are coroutines

    def stop(self) -> None:
        self._asyncio.tell(self._source.stop)

    async def close(self) -> None:
        with suppress(DriverUnavailable):  # the driver was closed before, and the source with it
            await super().close()


class AsyncioDriverAdapter(ForwardingDriver, Generic[D]):
    """A driver that needs asyncio, usable on every event loop.

    Args:
        make: makes the driver; called on the loop that it will live on.
        capabilities: what it promises.
    """

    def __init__(self, make: Callable[[], D], capabilities: Capabilities) -> None:
        self._make = make
        self._capabilities = capabilities
        self._driver: D | None = None
        self._asyncio: AsyncioThread | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def inner(self) -> D:
        """The driver itself, which lives on asyncio.

        Raises:
            DriverUnavailable: it is not open.
        """
        if self._driver is None:
            raise DriverUnavailable("the driver is not open")
        return self._driver

    async def _call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        if self._asyncio is None:
            return await function(*args)
        return await self._asyncio.call(function, *args)  # type: ignore[arg-type]  # drivers' methods are coroutines

    async def open(self) -> None:
        if self._driver is None:
            if not on_asyncio():
                self._asyncio = AsyncioThread()
            self._driver = await self._call(self._made)
        await self._call(self._driver.open)

    async def _made(self) -> D:
        return self._make()

    async def close(self) -> None:
        driver, thread = self._driver, self._asyncio
        try:
            if driver is not None:
                await self._call(driver.close)
        except DriverUnavailable:
            pass  # closed by another call at the same time
        finally:
            self._driver = self._asyncio = None
            if thread is not None:
                with anyio.CancelScope(shield=True):
                    await thread.close()

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> Source:
        thread = self._asyncio
        if thread is None:
            return await self.inner.subscribe(spec, revoked)
        return BridgedSource(thread, await self._call(self.inner.subscribe, spec, _at_home(revoked)))
