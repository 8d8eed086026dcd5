"""`hexa_worker.SyncEmitter`: emitting from threads, without an event loop of one's own.

A thread runs the loop; it starts with the first event (so after a server has forked its workers) and is waited for
when the program ends. What threads emit at once is published together, as in `hexa_worker.Emitter`.
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.from_thread import BlockingPortal

from hexa_worker.config.model import Broker
from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Headers
from hexa_worker.core.propagated import User
from hexa_worker.emitting.emitter import MAX_PENDING, Emitter
from hexa_worker.errors import ConfigError, DriverError, DriverUnavailable
from hexa_worker.subscriptions.api import Event

log = logging.getLogger("hexa_worker.emitting")


class _Loop:
    """The thread, its event loop and the emitter on it; as one, from start to close."""

    def __init__(self, make: Callable[[], Emitter]) -> None:
        self._make = make
        self._portal: BlockingPortal
        self._closing: anyio.Event
        self._started: Future[Emitter] = Future()
        # No daemon: the interpreter waits for it at exit, so what was submitted is confirmed before.
        self._thread = threading.Thread(target=self._run, name="hexa-worker-emitter")
        self._thread.start()
        try:
            self.emitter = self._started.result()
        except BaseException:  # interrupted, perhaps: nobody will use it, and the interpreter would wait for it
            threading.Thread(target=self.close, name="hexa-worker-emitter-close", daemon=True).start()
            raise
        threading.Thread(target=self._close_at_exit, name="hexa-worker-emitter-exit", daemon=True).start()

    def _run(self) -> None:
        try:
            anyio.run(self._main)
        except Exception as error:
            if self._started.done():
                log.exception("the emitter failed")
            else:
                self._started.set_exception(error)

    async def _main(self) -> None:
        self._closing = anyio.Event()
        async with self._make() as emitter, BlockingPortal() as self._portal:
            self._started.set_result(emitter)
            await self._closing.wait()

    def _close_at_exit(self) -> None:
        # An atexit function would come too late: the interpreter waits for threads before it calls those.
        threading.main_thread().join()
        self.close()

    def start(self, call: Callable[[], Any]) -> Future[Any]:
        """Run a coroutine function on the loop."""
        return self._portal.start_task_soon(call)

    def close(self) -> None:
        """Publish what waits, disconnect, end the thread. Idempotent."""
        if self._thread.is_alive():
            if self._started.exception() is None:
                with suppress(RuntimeError):  # closed by somebody else meanwhile
                    self._portal.call(self._closing.set)
            self._thread.join()


class SyncEmitter:
    """Emits events from any thread: a Flask or Django view, a script.

    One per process. It connects with the first event; a process that was forked connects anew.

    Args:
        make: makes the emitter that runs on the thread's loop; called for each connection.
        max_pending: how many events may wait for their confirmation; `submit` and `emit` block beyond that.
    """

    def __init__(self, make: Callable[[], Emitter], *, max_pending: int = MAX_PENDING) -> None:
        self._make = make
        self._max_pending = max_pending
        self._closed = False
        self._start_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_forked, weakref.ref(self)))

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(self._max_pending)
        self._loop: _Loop | None = None

    @classmethod
    def connect(cls, broker: Broker, *, name: str = "emitter", answers: str | None = None) -> Self:
        """An emitter to a broker, without a worker.toml; see `Emitter.connect`. It connects with the first event.

        Raises:
            ConfigError: an option cannot work.
        """
        from hexa_worker.config.options import config_of  # noqa: PLC0415 - as in Emitter.connect
        from hexa_worker.drivers.opening import make_driver  # noqa: PLC0415 - as above

        config = config_of(broker, name)  # a mistake is told here, not to the first event
        return cls(lambda: Emitter(make_driver(config), answers=answers))

    @classmethod
    def from_config(cls, path: str | Path = "worker.toml", *, answers: str | None = None) -> Self:
        """An emitter to the broker of a worker.toml; nothing is read or connected before the first event."""
        return cls(partial(Emitter.from_config, Path(path).absolute(), answers=answers))

    def __enter__(self) -> Self:
        """Connect now.

        Raises:
            ConfigError: worker.toml cannot work.
            DriverUnavailable: the broker is away.
        """
        self._running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def emit(  # noqa: PLR0913 - one keyword per part of an event
        self,
        channel: str,
        payload: Any = None,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002 - the event's field
        correlation_id: str | None = None,
        user: User | None = None,
        locale: str | None = None,
        reply_to: str | None = None,
        after: float | timedelta | None = None,
        at: datetime | None = None,
        expires_in: float | timedelta | None = None,
        carried: Headers = (),
        parent: Lineage | None = None,
        timeout_s: float | None = None,
    ) -> str:
        """Emit an event; returns its event id once the broker has confirmed it. See `Emitter.emit`.

        Raises:
            ConfigError: the event cannot be emitted as it is, or the emitter was closed.
            DriverUnavailable: not confirmed, or not within `timeout_s`; it may have been stored.
            DriverRejected: the broker refuses it.
        """
        event = Event(
            channel=channel,
            payload=payload,
            key=key,
            headers=headers or {},
            id=id,
            correlation_id=correlation_id,
            user=user,
            locale=locale,
            reply_to=reply_to,
            after=after,
            at=at,
            expires_in=expires_in,
            carried=carried,
        )
        return self.submit(event, parent=parent, timeout_s=timeout_s).result()

    def submit(self, event: Event, *, parent: Lineage | None = None, timeout_s: float | None = None) -> Future[str]:
        """Emit an event without waiting for its confirmation: the future is its event id, or the error.

        Raises:
            ConfigError: worker.toml cannot work, or the emitter was closed.
            DriverUnavailable: the broker was away when the emitter connected, or no room for one more event came within
                `timeout_s`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        loop = self._running()
        room = self._room
        if not room.acquire(timeout=_left(deadline)):
            raise DriverUnavailable(f"not sent within {timeout_s:.3g} s; it was not stored")
        timeout_s = _left(deadline)
        try:
            future: Future[str] = loop.start(partial(loop.emitter.emit_event, event, parent, timeout_s=timeout_s))
        except BaseException:
            room.release()
            raise
        future.add_done_callback(lambda _: room.release())
        return future

    def emit_many(self, events: Sequence[Event], *, timeout_s: float | None = None) -> list[str | DriverError]:
        """Emit events, in order; see `Emitter.emit_many`."""
        loop = self._running()
        call = partial(loop.emitter.emit_many, events, timeout_s=timeout_s)
        answers: list[str | DriverError] = loop.start(call).result()
        return answers

    def request(  # noqa: PLR0913 - as Emitter.request
        self,
        channel: str,
        payload: Any = None,
        *,
        timeout_s: float,
        returns: Any = Any,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002 - the event's field
        correlation_id: str | None = None,
        user: User | None = None,
        locale: str | None = None,
        parent: Lineage | None = None,
    ) -> Any:
        """Emit an event and wait for its answer; see `Emitter.request`."""
        loop = self._running()
        call = partial(
            loop.emitter.request,
            channel,
            payload,
            timeout_s=timeout_s,
            returns=returns,
            key=key,
            headers=headers,
            id=id,
            correlation_id=correlation_id,
            user=user,
            locale=locale,
            parent=parent,
        )
        return loop.start(call).result()

    def close(self) -> None:
        """Publish what waits and disconnect; also done when the program ends. Idempotent."""
        with self._lock:
            self._closed = True
            if self._loop is not None:
                self._loop.close()

    def _running(self) -> _Loop:
        with self._lock:
            if self._closed:
                raise ConfigError("the emitter was closed")
            if self._loop is None:
                self._loop = _Loop(self._make)
            return self._loop


def _left(deadline: float | None) -> float | None:
    """The seconds until a deadline."""
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def _forked(emitter: "weakref.ref[SyncEmitter]") -> None:
    """Neither threads nor the state of their locks survive a fork."""
    alive = emitter()
    if alive is not None:
        alive._start_anew()  # noqa: SLF001 - a part of the class that a weak reference must not keep alive
