"""The public face for handler modules: `subscribe`, `lifespan`, `Context`.

Decorators only mark; there is no registry. The loader imports the modules that worker.toml names and
collects the marks, so a handler stays an ordinary function that a unit test may call.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Generic, Literal, Protocol, TypeAlias, overload

import msgspec
from typing_extensions import TypeVar

from hexa_worker.core.carried import LOCALE, USER, User, carried_from, read_user
from hexa_worker.core.lineage import CORRELATION_ID, PREFIX, Lineage, lineage_of
from hexa_worker.core.message import Delivery, Headers, header
from hexa_worker.core.outcome import Verdict
from hexa_worker.errors import ConfigError

S = TypeVar("S", default=Any)
F = TypeVar("F", bound="HandlerFunction")

MARKS = "__hexa_worker_subscriptions__"
LIFESPAN_MARK = "__hexa_worker_lifespan__"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What one `subscribe` decorator said; None where it said nothing (worker.toml and defaults fill in)."""

    action: str
    channels: tuple[str, ...] = ()
    pattern: str | None = None
    concurrency: int | None = None
    order_by: str | None = None
    timeout_s: float | None = None
    batch: int | None = None
    batch_wait_s: float | None = None
    threads: int | None = None
    middlewares: tuple["Middleware", ...] = ()


def subscribe(  # noqa: PLR0913 - one keyword per setting reads best at the call
    *channels: str,
    action: str | None = None,
    pattern: str | None = None,
    concurrency: int | None = None,
    order_by: Literal["none", "key", "channel"] | None = None,
    timeout_s: float | None = None,
    batch: int | None = None,
    batch_wait_s: float | None = None,
    threads: int | None = None,
    middlewares: Sequence["Middleware"] = (),
) -> Callable[[F], F]:
    """Mark a function as the handler of a subscription. The function itself is returned unchanged.

    Args:
        channels: the channels to read; or use `pattern`.
        action: the subscription's name, unique in a worker; default: the function's name with ``-`` for ``_``.
        pattern: a regular expression that whole channel names must match.
        concurrency: how many handler calls may run at once in one process.
        order_by: ``none``, ``key`` or ``channel``: what keeps its order, across all processes.
        timeout_s: seconds a handler may run; `Context.extend` gives it more.
        batch: hand over up to this many deliveries at once; the handler takes ``list[T]`` and `BatchContext`.
        batch_wait_s: how long a batch may wait to fill.
        threads: the size of the thread pool of a plain ``def`` handler; default: `concurrency`.
        middlewares: run around this handler, inside the worker's own middlewares.

    A plain ``def`` handler runs in a thread of a pool of its own and never blocks the loop.

    Raises:
        ConfigError: it was used without its parentheses, or what it marks cannot be marked.
    """
    for bare in filter(callable, channels):
        raise ConfigError(f"@subscribe without a channel: {bare.__name__}", hint='write @subscribe("channel")')

    def mark(function: F) -> F:
        made = Mark(
            action=action or _name_of(function),
            channels=channels,
            pattern=pattern,
            concurrency=concurrency,
            order_by=order_by,
            timeout_s=timeout_s,
            batch=batch,
            batch_wait_s=batch_wait_s,
            threads=threads,
            middlewares=tuple(middlewares),
        )
        return _marked(function, made)

    return mark


def _marked(function: F, made: Mark) -> F:
    try:
        setattr(function, MARKS, (*getattr(function, MARKS, ()), made))
    except (AttributeError, TypeError) as error:  # a bound method, a builtin, an object with slots
        raise ConfigError(f"{function!r} cannot be marked", hint="mark a function of a module") from error
    return function


def _name_of(function: Any) -> str:
    """The action of a function that was given none."""
    name = getattr(function, "__name__", None)
    if name is None:
        raise ConfigError(f"{function!r} has no name", hint="give one: @subscribe(…, action=…)")
    return str(name).replace("_", "-")


L = TypeVar("L", bound=Callable[[], AsyncIterator[Any]])


@overload
def lifespan(function: L, /) -> L: ...
@overload
def lifespan() -> Callable[[L], L]: ...
def lifespan(function: L | None = None, /) -> L | Callable[[L], L]:
    """Mark an async generator function as the worker's lifespan: one per process.

    What it yields is `Context.state` in every handler; what follows the ``yield`` runs after the drain.
    An error before the ``yield`` stops the process with exit code 1.
    """

    def mark(function: L) -> L:
        setattr(function, LIFESPAN_MARK, True)
        return function

    return mark if function is None else mark(function)


class Runtime(Protocol):
    """What a context needs of the worker that runs it."""

    action: str
    state: Any

    async def emit(self, event: "Event", parent: Lineage | None) -> str:
        """Publish and return the event id once the broker has confirmed."""
        ...

    def extend(self, delivery: Delivery, seconds: float) -> None:
        """Move the deadline of a running delivery to `seconds` from now."""
        ...

    def logger(self, delivery: Delivery, lineage: Lineage) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger bound to a delivery."""
        ...

    def fence(self, delivery: Delivery) -> int | None:
        """The fence of a delivery's claim; None without one."""
        ...


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What a user emits.

    Attributes:
        channel: where to.
        payload: bytes and str go out as they are, anything else as JSON.
        key: keeps its order among events of the same key, where a subscription asks for it.
        headers: names and values of your own; names that start with ``hexa-`` are reserved.
        id: the event id; None makes a new one. Emitting twice with one id is one event to deduplication.
        correlation_id: joins everything that one request or one process of the business made happen.
        user: on whose behalf.
        locale: the user's language, ``de-DE``.
        carried: headers taken over from another event, as they were on the wire; what the event says itself wins.
    """

    channel: str
    payload: Any = None
    key: str | bytes | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    id: str | None = None
    correlation_id: str | None = None
    user: User | None = None
    locale: str | None = None
    carried: Headers = ()


class Context(Generic[S]):
    """One delivery, seen from its handler. Valid only while the handler runs.

    Attributes:
        delivery: the record as it came from the broker, for what this class does not show.
    """

    __slots__ = ("__dict__", "_runtime", "delivery")

    def __init__(self, delivery: Delivery, runtime: Runtime) -> None:
        self.delivery = delivery
        self._runtime = runtime

    @property
    def action(self) -> str:
        """The subscription's name."""
        return self._runtime.action

    @property
    def state(self) -> S:
        """What the lifespan yielded."""
        return self._runtime.state  # type: ignore[no-any-return]  # the loader cannot know the user's type

    @property
    def channel(self) -> str:
        """The channel this delivery was read from: a retry channel when it is a retry."""
        return self.delivery.channel

    @property
    def message_id(self) -> str:
        """The broker's name for this record; a retry is a new record."""
        return self.delivery.message_id

    @property
    def attempt(self) -> int:
        """0 on the first delivery, n on retry n."""
        return self.delivery.attempt

    @cached_property
    def lineage(self) -> Lineage:
        """All ids of the event."""
        return lineage_of(self.delivery)

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

    @cached_property
    def logger(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger whose lines carry action, channel, message id, root id and attempt."""
        return self._runtime.logger(self.delivery, self.lineage)

    async def emit(
        self,
        channel: str,
        payload: Any = None,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Emit a child event: same root, correlation id, user and trace; this event as parent. Returns its event id.

        Returns after the broker confirmed it. If this handler fails afterwards the child stays emitted, and
        a retry emits it again: give the effect a key of its own where that matters.

        Raises:
            DriverUnavailable: not confirmed in time; it may have been stored.
            DriverRejected: the broker refuses it (too large, a name it does not allow).
        """
        event = Event(channel=channel, payload=payload, key=key, headers=headers or {}, carried=self.carried)
        return await self._runtime.emit(event, self.lineage)

    def emit_sync(
        self,
        channel: str,
        payload: Any = None,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """`emit` for a plain ``def`` handler, from its own thread.

        Raises:
            ConfigError: as `emit`, or it was called in an async handler.
        """
        from anyio import from_thread  # noqa: PLC0415 - this module stays importable without an event loop

        if _on_a_loop():
            raise ConfigError("emit_sync is for plain functions", hint="in an async handler write await ctx.emit(…)")

        event = Event(channel=channel, payload=payload, key=key, headers=headers or {}, carried=self.carried)
        return from_thread.run(self._runtime.emit, event, self.lineage)

    def extend(self, seconds: float) -> None:
        """Give this handler `seconds` from now until its deadline."""
        self._runtime.extend(self.delivery, seconds)


def _on_a_loop() -> bool:
    """Whether this thread runs an event loop just now."""
    from anyio import get_current_task  # noqa: PLC0415 - as in emit_sync

    try:
        get_current_task()
    except RuntimeError:
        return False
    return True


class BatchContext(Generic[S]):
    """A batch of deliveries, seen from its handler.

    Attributes:
        items: the context of each payload, in the same order.
    """

    __slots__ = ("_runtime", "items")

    def __init__(self, items: tuple[Context[S], ...], runtime: Runtime) -> None:
        self.items = items
        self._runtime = runtime

    @property
    def action(self) -> str:
        """The subscription's name."""
        return self._runtime.action

    @property
    def state(self) -> S:
        """What the lifespan yielded."""
        return self._runtime.state  # type: ignore[no-any-return]  # the loader cannot know the user's type

    def extend(self, seconds: float) -> None:
        """Give this handler `seconds` from now until its deadline."""
        self._runtime.extend(self.items[0].delivery, seconds)


Result: TypeAlias = Verdict | None
"""What a handler may return. A batch handler returns None (all done) or one result or exception per item."""
BatchResult: TypeAlias = Sequence[Verdict | Exception | None] | None

Returned: TypeAlias = Result | BatchResult
HandlerFunction: TypeAlias = (
    Callable[[Any], Awaitable[Returned] | Returned]
    | Callable[[Any, Context[Any]], Awaitable[Returned] | Returned]
    | Callable[[Any, BatchContext[Any]], Awaitable[Returned] | Returned]
)
"""What `subscribe` may mark; the payload is whatever its annotation says."""

Next = Callable[[Any, Any], Awaitable[Any]]
Middleware = Callable[[Any, Any, Next], Awaitable[Any]]
"""``async def middleware(event, ctx, call_next): return await call_next(event, ctx)``"""
