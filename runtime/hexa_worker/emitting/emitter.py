"""`hexa_worker.Emitter`: many tasks emit at once, one task publishes what they emit in batches.

While one publish is under way, what is emitted meanwhile gathers and goes out with the next: a single event waits
for nobody, a thousand share one round trip, and events leave in the order in which they were emitted.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import anyio
from anyio.abc import TaskGroup

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.codecs import encode
from hexa_worker.codecs.decode import make_decoder
from hexa_worker.config.model import Broker
from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Headers, Message
from hexa_worker.core.propagated import User
from hexa_worker.drivers.base import Driver
from hexa_worker.emitting.answers import AnswerReader, read_answer
from hexa_worker.errors import ConfigError, DriverError, DriverUnavailable
from hexa_worker.event_encoder import Preparer
from hexa_worker.subscriptions.api import Event

MAX_BATCH = 1_000
MAX_BATCH_BYTES = 1024 * 1024
MAX_PENDING = 10_000
MAX_PENDING_BYTES = 64 * 1024 * 1024
CLOSE_S = 10.0


class _Pending:
    """One event on its way.

    Attributes:
        message: its record.
        answer: None until it is known, then True or the error; False once it was taken back unsent.
        done: set when the answer is there.
    """

    __slots__ = ("answer", "done", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.answer: bool | Exception | None = None
        self.done = anyio.Event()


class _Limits(NamedTuple):
    """How many events one publish takes, how many wait for their confirmation, and how many bytes those have."""

    batch: int
    pending: int
    pending_bytes: int


class Emitter:
    """Emits events from an application that is no worker. Use it as an async context manager, one per process.

    It must be entered and left in the same task (a framework's lifespan is); any task of that loop may emit.

    Args:
        driver: talks to the broker; opened and closed by the emitter.
        clock: stamps records and ids; default: the machine's.
        max_batch: how many events one publish takes at most.
        max_pending: how many events may wait for their confirmation; further emits wait for room.
        max_pending_bytes: how many bytes of payload may; an event that is larger goes alone.
        answers: the channel where answers to `request` come in; no other process may read it.
    """

    def __init__(  # noqa: PLR0913 - one keyword per limit
        self,
        driver: Driver,
        clock: Clock | None = None,
        *,
        max_batch: int = MAX_BATCH,
        max_pending: int = MAX_PENDING,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        answers: str | None = None,
    ) -> None:
        self._driver = driver
        self._preparer = Preparer(clock or SystemClock(), encode)
        self._limits = _Limits(max_batch, max_pending, max_pending_bytes)
        self._queue: deque[_Pending] = deque()
        self._batch: list[_Pending] = []
        self._turnstile = anyio.Lock()
        self._room = anyio.Event()
        self._pending = 0
        self._pending_bytes = 0
        self._work = anyio.Event()
        self._open = False
        self._group: TaskGroup | None = None
        self._stack = AsyncExitStack()
        self._answers = None if answers is None else AnswerReader(driver, answers)

    @classmethod
    def connect(cls, broker: Broker, *, name: str = "emitter", answers: str | None = None) -> Self:
        """An emitter to a broker, without a worker.toml: ``Emitter.connect(Kafka(servers=("kafka:9092",)))``.

        Nothing is connected before ``async with``.

        Args:
            broker: what the broker's table of worker.toml would say; relative paths are relative to the working
                directory.
            name: the application's, which CloudEvents tell as their source.
            answers: the channel where answers to `request` come in; no other process may read it.

        Raises:
            ConfigError: an option cannot work, or the broker's client library is not installed.
        """
        from hexa_worker.config.options import config_of  # noqa: PLC0415 - not needed with a driver of one's own
        from hexa_worker.drivers.opening import make_driver  # noqa: PLC0415 - as above

        return cls(make_driver(config_of(broker, name)), answers=answers)

    @classmethod
    def from_config(cls, path: str | Path = "worker.toml", *, answers: str | None = None) -> Self:
        """An emitter to the broker of a worker.toml. It needs no handlers; their modules are not imported.

        Args:
            path: worker.toml.
            answers: as in `connect`.

        Raises:
            ConfigError: worker.toml cannot work, or the broker's client library is not installed.
        """
        from hexa_worker.config.load import load_config  # noqa: PLC0415 - as above
        from hexa_worker.drivers.opening import make_driver  # noqa: PLC0415 - not needed with a driver of one's own

        return cls(make_driver(load_config(Path(path))), answers=answers)

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            DriverUnavailable: the broker is away.
            DriverRejected: it refuses the channel of the answers.
        """
        from hexa_worker.drivers.opening import opened  # noqa: PLC0415 - see from_config

        async with AsyncExitStack() as stack:
            await stack.enter_async_context(opened(self._driver))
            if self._answers is not None:
                await self._driver.declare([self._answers.spec])
            self._group = await stack.enter_async_context(anyio.create_task_group())
            if self._answers is not None:
                self._group.start_soon(self._answers.run)
            self._group.start_soon(self._publish_pending)
            self._open = True
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Publish what waits, within `CLOSE_S`, and disconnect."""
        self._open = False
        self._work.set()
        self._room.set()
        if self._answers is not None:
            self._answers.close()
        with anyio.move_on_after(CLOSE_S, shield=True):
            while self._pending:
                await self._last_pending().done.wait()
        assert self._group is not None  # noqa: S101 - it was entered
        self._group.cancel_scope.cancel()
        self._fail(self._queue, DriverUnavailable("the emitter was closed before the broker had confirmed"))
        # Told of no error, the task group wraps none: what the body raised goes on as it is.
        await self._stack.__aexit__(None, None, None)

    def _last_pending(self) -> _Pending:
        return self._queue[-1] if self._queue else self._batch[-1]

    async def emit(  # noqa: PLR0913 - one keyword per part of an event
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
        """Emit an event; returns its event id once the broker has confirmed it.

        Args:
            channel: where to.
            payload: bytes and str go out as they are, anything else as JSON.
            key: keeps its order among events of the same key.
            headers: names and values of your own.
            id: the event id; give the request's own where a client may repeat it.
            correlation_id: joins all that one request made happen; children take it over.
            user: on whose behalf; children take it over.
            locale: the user's; children take it over.
            reply_to: the channel where an answer is expected; see `Event`.
            after: deliver it so much later, seconds or a `timedelta`.
            at: deliver it at this time, which has a time zone; one that has passed is now.
            expires_in: drop it, and do not run it, when so much time has passed since it could be delivered first.
            carried: further headers to take over from another event.
            parent: the event that it is a child of (`Context.lineage`); None starts a new tree.
            timeout_s: how long to wait for the confirmation, for room among those that wait included; None: as long
                as the driver takes to call its broker unavailable.

        Raises:
            ConfigError: the event cannot be emitted as it is, or the emitter is not open.
            DriverUnavailable: not confirmed, or not within `timeout_s`; it may have been stored.
            DriverRejected: the broker refuses it.

        Cancellation: an event that was not sent yet is forgotten; of one that was, nothing is known.
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
        return await self.emit_event(event, parent, timeout_s=timeout_s)

    async def emit_event(self, event: Event, parent: Lineage | None = None, *, timeout_s: float | None = None) -> str:
        """As `emit`, with the event made already."""
        event_id, message = self._preparer.prepare(event, parent)
        if timeout_s is None:
            answer = await self._sent(await self._enqueue(message))
        else:
            (answer,) = await self._outcomes([message], timeout_s)
        if isinstance(answer, Exception):
            raise answer
        return event_id

    async def emit_many(self, events: Sequence[Event], *, timeout_s: float | None = None) -> list[str | DriverError]:
        """Emit events, in order; for each its event id once it is confirmed, or the error that refused it.

        Args:
            events: what to emit.
            timeout_s: how long to wait for all of them; None: as `emit`.

        Raises:
            ConfigError: one of them cannot be emitted as it is (then none is), or the emitter is not open.

        Cancellation: as `emit`, for each.
        """
        prepared = [self._preparer.prepare(event, None) for event in events]
        answers = await self._outcomes([message for _, message in prepared], timeout_s)
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, DriverError):
                raise answer
        return [
            answer if isinstance(answer, DriverError) else event_id
            for (event_id, _), answer in zip(prepared, answers, strict=True)
        ]

    async def request(  # noqa: PLR0913 - as emit
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
        """Emit an event and wait for its answer: what its handler returns. Of several answers the first one counts.

        Args:
            channel: where to.
            payload: bytes and str go out as they are, anything else as JSON.
            timeout_s: how long to wait for the answer, the confirmation included.
            returns: the type that the answer is decoded to, as a handler's annotation.
            key: as in `emit`.
            headers: as in `emit`.
            id: as in `emit`.
            correlation_id: as in `emit`; a Go service's answer is known by it, so leave it out there.
            user: as in `emit`.
            locale: as in `emit`.
            parent: as in `emit`.

        Raises:
            Unanswered: no answer came in time; the event may be handled all the same.
            DecodeError: the answer is none of the type.
            ConfigError: the emitter has no channel for answers, or as in `emit`.
            DriverUnavailable, DriverRejected: as in `emit`.

        Cancellation: as `emit`; an answer that comes later is dropped.
        """
        reader = self._answers
        if reader is None:
            hint = "give the emitter a channel that only this process reads: answers=…"
            raise ConfigError("request needs a channel for answers", hint=hint)
        decoder = make_decoder(returns)
        event = Event(
            channel=channel,
            payload=payload,
            key=key,
            headers=headers or {},
            id=id,
            correlation_id=correlation_id,
            user=user,
            locale=locale,
            reply_to=reader.channel,
        )
        event_id, message = self._preparer.prepare(event, parent)
        ends = anyio.current_time() + timeout_s
        with reader.expecting(event_id) as question:
            (sent,) = await self._outcomes([message], timeout_s)
            if isinstance(sent, Exception):
                raise sent
            with anyio.move_on_after(ends - anyio.current_time()):
                await question.answered.wait()
        return read_answer(
            question, decoder, f"event {event_id} to {channel} was not answered within {timeout_s:.3g} s"
        )

    async def _outcomes(self, messages: Sequence[Message], timeout_s: float | None) -> list[bool | Exception]:
        """Publish records; for each True or the error, which is a `DriverUnavailable` once the time is over."""
        pending: list[_Pending] = []
        if timeout_s is None:
            await self._send(messages, pending)
        else:
            with anyio.move_on_after(timeout_s):
                await self._send(messages, pending)
        unsent = len(messages) - len(pending)
        return [_told(answer, timeout_s) for answer in [one.answer for one in pending] + [False] * unsent]

    async def _send(self, messages: Sequence[Message], pending: list[_Pending]) -> None:
        """Queue records, note them in `pending`, wait for every answer; cancelled, forget those that wait."""
        try:
            for message in messages:
                pending.append(await self._enqueue(message))  # noqa: PERF401 - those before a failure must be known
            for one in pending:
                await one.done.wait()
        except BaseException:
            for one in pending:
                self._forget(one)
            raise

    async def _sent(self, one: _Pending) -> bool | Exception | None:
        try:
            await one.done.wait()
        except BaseException:
            self._forget(one)
            raise
        return one.answer

    async def _enqueue(self, message: Message) -> _Pending:
        """Wait for room, first come, first served; then queue a record."""
        size = len(message.payload)
        if self._turnstile.locked() or not self._has_room(size):
            async with self._turnstile:
                while not self._has_room(size):
                    self._room = anyio.Event()
                    await self._room.wait()
        if not self._open:
            raise ConfigError("the emitter is not open", hint="emit inside of `async with`")
        one = _Pending(message)
        self._queue.append(one)
        self._pending += 1
        self._pending_bytes += size
        self._work.set()
        return one

    def _has_room(self, size: int) -> bool:
        fits = self._pending < self._limits.pending and self._pending_bytes + size <= self._limits.pending_bytes
        return fits or not self._pending or not self._open

    def _forget(self, one: _Pending) -> None:
        """Take back an event that nobody waits for any more, if it is not on its way yet."""
        if one.answer is None and one in self._queue:
            self._queue.remove(one)
            self._finish(one, answer=False)

    def _finish(self, one: _Pending, answer: bool | Exception) -> None:  # noqa: FBT001 - what became of it
        one.answer = answer
        self._pending -= 1
        self._pending_bytes -= len(one.message.payload)
        one.done.set()
        self._room.set()

    def _fail(self, pending: "deque[_Pending] | list[_Pending]", error: Exception) -> None:
        while pending:
            self._finish(pending.pop(), error)

    async def _publish_pending(self) -> None:
        """Publish batch after batch. A failure is its events' own: the next batch is tried all the same."""
        try:
            while True:
                if not self._queue:
                    self._work = anyio.Event()
                    await self._work.wait()
                    continue
                self._batch = self._next_batch()
                await self._publish(self._batch)
        finally:
            unknown = [one for one in self._batch if one.answer is None]
            self._fail(unknown, DriverUnavailable("the emitter was closed before the broker had confirmed"))

    def _next_batch(self) -> list[_Pending]:
        batch: list[_Pending] = []
        size = 0
        while self._queue and len(batch) < self._limits.batch:
            size += len(self._queue[0].message.payload)
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _publish(self, batch: list[_Pending]) -> None:
        try:
            answers = await self._driver.publish([one.message for one in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, those who emitted must hear of it
            for one in batch:
                self._finish(one, _own_copy(error))
            return
        for one, answer in zip(batch, answers, strict=True):
            self._finish(one, answer if isinstance(answer, DriverError) else True)


def _told(answer: bool | Exception | None, timeout_s: float | None) -> bool | Exception:  # noqa: FBT001 - what became of it
    """What became of an event, once the wait for it is over: it was confirmed or refused, or its time ran out."""
    if answer:
        return answer
    if answer is None:
        return DriverUnavailable(f"not confirmed within {timeout_s:.3g} s; it may have been stored")
    return DriverUnavailable(f"not sent within {timeout_s:.3g} s; it was not stored")


def _own_copy(error: Exception) -> Exception:
    """An error for one of several tasks: each adds its own frames to what it raises."""
    if not isinstance(error, DriverError):
        return error
    copy = type(error)(*error.args)
    copy.__cause__ = error
    return copy
