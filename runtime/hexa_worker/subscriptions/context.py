"""What a handler holds of its delivery: `Context`, `BatchContext`."""

import logging
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeAlias

from msgspec.structs import replace
from typing_extensions import TypeVar

from hexa_worker.core.child_ids import Handled
from hexa_worker.core.expiry import expires_ms
from hexa_worker.core.lineage import (
    CORRELATION_ID,
    FIRST_FAILED_AT,
    PREFIX,
    REDRIVEN_FROM,
    Lineage,
    Origin,
    lineage_of,
    origin_of,
)
from hexa_worker.core.message import Delivery, Headers, header
from hexa_worker.core.propagated import LOCALE, REPLY_TO, USER, User, carried_from, read_user
from hexa_worker.errors import ConfigError, DriverError, DriverUnavailable, EmitUnconfirmed
from hexa_worker.subscriptions.event import Event
from hexa_worker.subscriptions.resources import resource_in
from hexa_worker.subscriptions.transactions import Block, EventWriter, Transaction, Transactions

S = TypeVar("S", default=Any)
R = TypeVar("R")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""


class Runtime(Protocol):
    """What a context needs of the worker that runs it."""

    action: str
    state: Any
    maximum_retries: int

    async def emit(self, event: Event, parent: Lineage) -> str:
        """Publish and return the event id once the broker has confirmed."""
        ...

    async def emit_many(self, events: Sequence[Event], parent: Lineage) -> Sequence[str | DriverError]:
        """Publish in one go: for each its event id, or why it is not confirmed."""
        ...

    def now_ms(self) -> int:
        """The wall clock, milliseconds since the epoch."""
        ...

    def handled_s(self, delivery: Delivery) -> float:
        """How long the handler has had a delivery, in seconds."""
        ...

    def remaining_s(self, delivery: Delivery) -> float | None:
        """How long the handler may still take, in seconds; None: there is no limit."""
        ...

    def extend(self, delivery: Delivery, seconds: float) -> None:
        """Move the deadline of a running delivery to `seconds` from now."""
        ...

    def logger(self, delivery: Delivery, lineage: Lineage, items: int = 1) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger bound to a delivery, or to a batch of so many `items` by its first one."""
        ...

    def fence(self, delivery: Delivery) -> int | None:
        """The fence of a delivery's claim; None without one."""
        ...

    @property
    def transactions(self) -> Transactions:
        """The outbox. Raises ConfigError when worker.toml has none."""
        ...


class _Running(Generic[S]):
    """What the contexts of one delivery and of a batch have in common.

    Attributes:
        unconfirmed: channels of emits that were begun and are not confirmed; None as long as nothing was emitted.
    """

    __slots__ = ("__dict__", "_runtime", "unconfirmed")

    _runtime: Runtime
    unconfirmed: dict[object, str] | None

    @property
    def items(self) -> tuple["Context[S]", ...]:
        """The contexts of all deliveries in hand."""
        raise NotImplementedError

    @property
    def action(self) -> str:
        """The subscription's name."""
        return self._runtime.action

    @property
    def state(self) -> S:
        """What the lifespan yielded; of several lifespans `Resources`."""
        return self._runtime.state  # type: ignore[no-any-return]  # the loader cannot know the user's type

    def resource(self, kind: type[R]) -> R:
        """What a lifespan yielded that is a `kind`: ``ctx.resource(Pool)``.

        Raises:
            ConfigError: none did.
        """
        return resource_in(self._runtime.state, kind)

    @cached_property
    def scopes(self) -> dict[object, Any]:
        """What `scope` functions yielded for this call; see `Scope.of`."""
        return {}

    @property
    def maximum_retries(self) -> int:
        """How often a failed delivery is retried: a handler runs up to 1 + `maximum_retries` times."""
        return self._runtime.maximum_retries

    @property
    def remaining_s(self) -> float | None:
        """Seconds until this handler is cancelled, `extend` included, 0 when it is late; None: it has no limit."""
        return self._runtime.remaining_s(self.items[0].delivery)

    @cached_property
    def logger(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger whose lines carry action, channel, message id, root id and attempt; of a batch its first item's."""
        first = self.items[0]
        return self._runtime.logger(first.delivery, first.lineage, len(self.items))

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
        timeout_s: float | None = None,
    ) -> Coroutine[Any, Any, str]:
        """Emit a child event: same root, correlation id, user and trace; this event as parent. Returns its event id.

        To be awaited: a delivery whose handler returns before its emits are confirmed has failed. Returns after the
        broker confirmed it. If this handler fails afterwards the child stays emitted, and a retry emits it again, by
        the same id: the id is made of this event, the action, and what the child says. An emit that says something
        else on the next attempt is another event. With `id` it has that id, whatever it says.
        What a batch emits is a child of its first item; the `items` can emit, too.
        With `after` (seconds or a `timedelta`) or `at` (a time with its zone) it is delivered then, never earlier;
        with `expires_in` it is dropped when so much time has passed since it could be delivered first.
        What `correlation_id`, `user` and `locale` say replaces what the child would take over.
        With `timeout_s` the wait for the confirmation ends so many seconds later, by `DriverUnavailable`.

        Raises:
            ConfigError: the event itself is wrong.
            DriverUnavailable: not confirmed in time; it may have been stored.
            DriverRejected: the broker refuses it (too large, a name it does not allow).
        """
        if self.unconfirmed is None:
            self.unconfirmed = {}
        place = object()
        self.unconfirmed[place] = channel
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
        )
        return self._emit(place, event, timeout_s)

    async def _emit(self, place: object, event: Event, timeout_s: float | None) -> str:
        try:
            return await self._emitted(event, timeout_s)
        finally:
            self._confirmed(place)

    async def _emitted(self, event: Event, timeout_s: float | None) -> str:
        first = self.items[0]
        emitting = self._runtime.emit(replace(event, carried=first.carried), first.lineage)
        if timeout_s is None:
            return await emitting
        from anyio import move_on_after  # noqa: PLC0415 - this module stays importable without an event loop

        with move_on_after(timeout_s):
            return await emitting
        raise DriverUnavailable(f"not confirmed within {timeout_s:.3g} s; it may have been stored")

    def emit_many(self, events: Sequence[Event]) -> Coroutine[Any, Any, list[str]]:
        """Emit child events in one go, in their order; returns their event ids once the broker confirmed all of them.

        To be awaited, as `emit`.

        Raises:
            ConfigError: one of the events is wrong; none is emitted.
            DriverUnavailable, DriverRejected: of the first that is not confirmed; others may be stored.
        """
        if self.unconfirmed is None:
            self.unconfirmed = {}
        place = object()
        self.unconfirmed[place] = ", ".join(dict.fromkeys(event.channel for event in events)) or "nothing"
        return self._emit_many(place, events)

    async def _emit_many(self, place: object, events: Sequence[Event]) -> list[str]:
        try:
            first = self.items[0]
            children = [event if event.carried else replace(event, carried=first.carried) for event in events]
            answers = await self._runtime.emit_many(children, first.lineage) if children else ()
        finally:
            self._confirmed(place)
        for answer in answers:
            if isinstance(answer, DriverError):
                raise answer
        return [str(answer) for answer in answers]

    def _confirmed(self, place: object) -> None:
        assert self.unconfirmed is not None  # noqa: S101 - `emit` made it
        del self.unconfirmed[place]

    def emit_sync(  # noqa: PLR0913 - as emit
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
        timeout_s: float | None = None,
    ) -> str:
        """`emit` for a plain ``def`` handler, from its own thread.

        Raises:
            ConfigError: as `emit`, or it was called in an async handler.
        """
        from anyio import from_thread  # noqa: PLC0415 - this module stays importable without an event loop

        if _on_a_loop():
            raise ConfigError("emit_sync is for plain functions", hint="in an async handler write await ctx.emit(…)")
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
        )
        return from_thread.run(self._emitted, event, timeout_s)

    def left_unconfirmed(self) -> EmitUnconfirmed | None:
        """The error of a handler that has returned before its emits were confirmed; None when all were."""
        if not self.unconfirmed:
            return None
        channels = ", ".join(f'"{one}"' for one in dict.fromkeys(map(str, list(self.unconfirmed.values()))))
        return EmitUnconfirmed(
            f"{self.action} returned before its ctx.emit to {channels} was confirmed, event {self.items[0].event_id} "
            "(write await ctx.emit(…); in a plain def ctx.emit_sync(…))"
        )

    def extend(self, seconds: float) -> None:
        """Give this handler `seconds` from now until its deadline."""
        self._runtime.extend(self.items[0].delivery, seconds)


class Context(_Running[S]):
    """One delivery, seen from its handler. Valid only while the handler runs.

    Attributes:
        delivery: the record as it came from the broker, for what this class does not show.
    """

    __slots__ = ("delivery",)
    is_batch: ClassVar[Literal[False]] = False

    def __init__(self, delivery: Delivery, runtime: Runtime) -> None:
        self.delivery = delivery
        self._runtime = runtime
        self.unconfirmed = None

    @property
    def items(self) -> tuple["Context[S]", ...]:
        """Itself alone: a middleware finds the deliveries in hand here, whether it runs around a batch or not."""
        return (self,)

    @property
    def channel(self) -> str:
        """The channel the event was emitted to: the same on every retry."""
        return self.origin.channel if self.delivery.comes_again else self.delivery.channel

    @property
    def read_from(self) -> str:
        """The channel this delivery was read from: a retry channel when it is a retry."""
        return self.delivery.channel

    @property
    def message_id(self) -> str:
        """The broker's name for this record; a retry is a new record, the first one's is ``origin.message_id``."""
        return self.delivery.message_id

    @cached_property
    def origin(self) -> Origin:
        """The record the event was emitted as: its channel, message id and time stamp, the same on every retry."""
        return origin_of(self.delivery)

    @property
    def emitted_at(self) -> datetime | None:
        """When the event was emitted, in UTC, the same on every retry; None when its record does not say it."""
        return _time(self.origin.timestamp_ms)

    @property
    def expires_at(self) -> datetime | None:
        """Until when the event is of use, in UTC; None: for ever."""
        expires = expires_ms(self.delivery.headers)
        return None if expires is None or expires > _LAST_MS else _EPOCH + timedelta(milliseconds=expires)

    @property
    def attempt(self) -> int:
        """0 on the first delivery, n on retry n; a snooze does not change it."""
        return self.delivery.attempt

    @property
    def snoozes(self) -> int:
        """How often a handler has answered `Snooze` to this event."""
        return self.delivery.snoozes

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure of this attempt is the end: a dead letter, not a retry."""
        return self.delivery.attempt >= self._runtime.maximum_retries

    @property
    def first_failed_at(self) -> datetime | None:
        """When the event failed for the first time, in UTC; None when it has not failed yet."""
        found = header(self.delivery.headers, FIRST_FAILED_AT) if self.delivery.comes_again else None
        return None if found is None or not found.isdigit() else _time(int(found))

    @property
    def redriven(self) -> bool:
        """Whether the event was a dead letter that somebody sent round again."""
        return self.delivery.comes_again and header(self.delivery.headers, REDRIVEN_FROM) is not None

    @cached_property
    def queued_s(self) -> float | None:
        """Seconds from when the event could run (it was emitted, its retry was due) until its handler began.

        None when its record does not say when that was. Wall clocks of several machines are compared.
        """
        ready_ms = max(self.delivery.due_ms, self.delivery.timestamp_ms)
        if ready_ms <= 0:
            return None
        return max((self._runtime.now_ms() - ready_ms) / 1000 - self._runtime.handled_s(self.delivery), 0.0)

    @cached_property
    def lineage(self) -> Lineage:
        """All ids of the event."""
        return Handled.of(lineage_of(self.delivery), self._runtime.action)

    @property
    def event_id(self) -> str:
        """The event's id: the same on every retry, and after a redrive."""
        return self.lineage.event_id

    @property
    def root_id(self) -> str:
        """The id of the first event of the tree this event belongs to; its own id if nobody emitted it."""
        return self.lineage.root_id

    @property
    def parent_id(self) -> str | None:
        """The id of the event whose handler emitted this one, or None."""
        return self.lineage.parent_id

    @property
    def correlation_id(self) -> str | None:
        """The correlation id that came with the event, or None."""
        value = header(self.delivery.headers, CORRELATION_ID)
        return None if value is None else value.decode("utf-8", errors="replace")

    @property
    def fence(self) -> int | None:
        """A number that is higher than that of everybody who had this event in hand before; None without deduplication.

        Write it beside what the handler writes, and refuse to overwrite a higher one: then a process that was
        taken for dead cannot undo what its successor did.
        """
        return self._runtime.fence(self.delivery)

    @property
    def user(self) -> User | None:
        """On whose behalf the event happened, or None when nobody said it."""
        return read_user(header(self.delivery.headers, USER))

    @property
    def locale(self) -> str | None:
        """The locale that came with the event, or None."""
        value = header(self.delivery.headers, LOCALE)
        return None if value is None else value.decode("utf-8", errors="replace")

    @property
    def reply_to(self) -> str | None:
        """The channel where an answer to this event is expected, or None: a returned value is emitted there."""
        value = header(self.delivery.headers, REPLY_TO)
        return value.decode("utf-8", errors="replace") if value else None

    @property
    def key(self) -> str | None:
        """The event's key; bytes that are not UTF-8 show as replacement characters."""
        key = self.delivery.key
        return None if key is None else key.decode("utf-8", errors="replace")

    @cached_property
    def carried(self) -> Headers:
        """What child events take over from this one as it is: correlation id, user, locale, trace.

        A middleware may replace it.
        """
        return carried_from(self.delivery.headers)

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The event's own headers as text, without control headers; of a repeated name the last one wins.

        Raw bytes and repeated names are in ``delivery.headers``.
        """
        return MappingProxyType(
            {
                name: value.decode("utf-8", errors="replace")
                for name, value in self.delivery.headers
                if not name.startswith(PREFIX)
            }
        )

    def outbox(self, connection: Any) -> EventWriter:
        """Write child events in the transaction of `connection`: ``await ctx.outbox(connection).emit(Event(…), …)``.

        They are sent once it is committed; until then, and if it is rolled back, nobody hears of them.

        Args:
            connection: one that `hexa_worker.outbox.Outbox` takes.

        Raises:
            ConfigError: worker.toml has no ``[outbox]``.
        """
        return self._runtime.transactions.writer(connection, self.lineage, self.carried)

    def transaction(self, connection: Any) -> Transaction:
        """A transaction in which this event is marked as done: ``async with ctx.transaction(connection): …``.

        What the block writes, and emits by `outbox`, takes effect once, however often the event is delivered: the
        transaction is committed when the block ends, rolled back when it fails. Entering it for an event that is done
        raises `Duplicate`, and the delivery is acknowledged as a duplicate; also if an earlier attempt failed after
        its commit. In a plain function, ``with``. One block of a handler can be committed: a second one raises
        `OutboxError`.

        Args:
            connection: one that `hexa_worker.outbox.Outbox` takes, in no transaction of its own.

        Raises:
            ConfigError: worker.toml has no ``[outbox]``.
        """
        return self._runtime.transactions.transaction(connection, self.action, self.event_id, self._block)

    @cached_property
    def _block(self) -> Block:
        return Block()


def _time(ms: int) -> datetime | None:
    return _EPOCH + timedelta(milliseconds=ms) if 0 < ms <= _LAST_MS else None


def _on_a_loop() -> bool:
    """Whether this thread runs an event loop just now."""
    from anyio import get_current_task  # noqa: PLC0415 - as in emit_sync

    try:
        get_current_task()
    except RuntimeError:
        return False
    return True


class BatchContext(_Running[S]):
    """A batch of deliveries, seen from its handler. What names one event is in the contexts of its `items`."""

    __slots__ = ("_items",)
    is_batch: ClassVar[Literal[True]] = True

    def __init__(self, items: tuple[Context[S], ...], runtime: Runtime) -> None:
        self._items = items
        self._runtime = runtime
        self.unconfirmed = None

    @property
    def items(self) -> tuple[Context[S], ...]:
        """The context of each payload, in the same order."""
        return self._items

    def __getattr__(self, name: str) -> Any:
        if hasattr(Context, name):
            raise AttributeError(f"a batch has no {name} of its own: each of ctx.items has one")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


AnyContext: TypeAlias = Context[S] | BatchContext[S]
"""What a middleware gets: `items` of both are the contexts of the deliveries in hand."""
