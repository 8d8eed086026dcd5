"""The public face for handler modules: `subscribe`, `lifespan`, and the types that handlers are written with.

Decorators only mark; there is no registry. The loader imports the modules that worker.toml names and
collects the marks, so a handler stays an ordinary function that a unit test may call.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, overload

import msgspec
from typing_extensions import TypeVar

from hexa_worker.core.outcome import Verdict
from hexa_worker.core.retry import Retries
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.context import AnyContext, BatchContext, Context, Runtime
from hexa_worker.subscriptions.event import Event

__all__ = [
    "LIFESPAN_MARK",
    "MARKS",
    "AnyContext",
    "BatchContext",
    "BatchResult",
    "Context",
    "Event",
    "HandlerFunction",
    "Mark",
    "Middleware",
    "Next",
    "Result",
    "Retries",
    "Runtime",
    "lifespan",
    "subscribe",
]

ErrorClasses: TypeAlias = tuple[type[BaseException], ...]

F = TypeVar("F", bound="HandlerFunction")

MARKS = "__hexa_worker_subscriptions__"
LIFESPAN_MARK = "__hexa_worker_lifespan__"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What one `subscribe` decorator said; None where it said nothing (worker.toml and defaults fill in)."""

    action: str
    channels: tuple[str, ...] = ()
    pattern: str | None = None
    type: str | None = None
    concurrency: int | None = None
    order_by: str | None = None
    timeout_s: float | None = None
    batch: int | None = None
    batch_wait_s: float | None = None
    threads: int | None = None
    mailbox: int | None = None
    start: str | None = None
    codec: str | None = None
    idempotency_key: str | None = None
    reply_to: str | None = None
    retry: Retries | None = None
    on_exhausted: str | None = None
    dead_letter_on: ErrorClasses | None = None
    retry_on: ErrorClasses | None = None
    drop_on: ErrorClasses | None = None
    middlewares: tuple["Middleware", ...] = ()


def subscribe(  # noqa: PLR0913 - one keyword per setting reads best at the call
    *channels: str,
    action: str | None = None,
    pattern: str | None = None,
    type: str | None = None,  # noqa: A002 - its name everywhere else
    concurrency: int | None = None,
    order_by: Literal["none", "key", "channel"] | None = None,
    timeout_s: float | None = None,
    batch: int | None = None,
    batch_wait_s: float | None = None,
    threads: int | None = None,
    mailbox: int | None = None,
    start: Literal["earliest", "latest"] | None = None,
    codec: Literal["json", "msgpack", "protobuf", "raw"] | None = None,
    idempotency_key: str | None = None,
    reply_to: str | None = None,
    retry: Retries | None = None,
    on_exhausted: Literal["dead_letter", "hold"] | None = None,
    dead_letter_on: ErrorClasses | None = None,
    retry_on: ErrorClasses | None = None,
    drop_on: ErrorClasses | None = None,
    middlewares: Sequence["Middleware"] = (),
) -> Callable[[F], F]:
    """Mark a function as the handler of a subscription. The function itself is returned unchanged.

    Args:
        channels: the channels to read; or use `pattern`.
        action: the subscription's name, unique in a worker; default: the function's name with ``-`` for ``_``.
        pattern: a regular expression that whole channel names must match.
        type: only events of this type; worker.toml says where the type stands, under ``[channels.CHANNEL]``. ``*``: of
            all types that no other handler is for.
        concurrency: how many handler calls may run at once in one process.
        order_by: ``none``, ``key`` or ``channel``: what keeps its order, across all processes.
        timeout_s: seconds a handler may run; `Context.extend` gives it more.
        batch: hand over up to this many deliveries at once; the handler takes ``list[T]`` and `BatchContext`.
        batch_wait_s: how long a batch may wait to fill.
        threads: the size of the thread pool of a plain ``def`` handler; default: `concurrency`.
        mailbox: how many deliveries one process may hold: queued, running and not yet settled.
        start: ``earliest`` or ``latest``: where a subscription without progress begins.
        codec: how payloads are decoded when no header says it.
        reply_to: the channel for a value that the handler returns, of events that expect no answer elsewhere.
        idempotency_key: ``header:NAME`` or ``payload:FIELD``: what makes two events the same for this handler.
        retry: how often and how late a failed delivery is retried; see `Retries`.
        on_exhausted: what becomes of an event whose retries are used up: ``dead_letter``, or ``hold``: its
            subscription stands still in that process until it is resumed.
        dead_letter_on: classes of errors that are dead-lettered at once: no retry can help.
        retry_on: classes of errors that are retried although a class above them is named in `dead_letter_on`.
        drop_on: classes of errors after which the delivery is acknowledged and counted as dropped.
        middlewares: run around this handler, inside the worker's own middlewares.

    The same key in worker.toml, ``[subscriptions.ACTION]``, wins over an argument; of `retry` each one by itself.
    A plain ``def`` handler runs in a thread of a pool of its own and never blocks the loop.

    Raises:
        ConfigError: it was used without its parentheses, or what it marks cannot be marked.
    """
    _require_parentheses(channels)

    def mark(function: F) -> F:
        made = Mark(
            action=action or name_of(function),
            channels=channels,
            pattern=pattern,
            type=type,
            concurrency=concurrency,
            order_by=order_by,
            timeout_s=timeout_s,
            batch=batch,
            batch_wait_s=batch_wait_s,
            threads=threads,
            mailbox=mailbox,
            start=start,
            codec=codec,
            idempotency_key=idempotency_key,
            reply_to=reply_to,
            retry=retry,
            on_exhausted=on_exhausted,
            dead_letter_on=dead_letter_on,
            retry_on=retry_on,
            drop_on=drop_on,
            middlewares=tuple(middlewares),
        )
        return _marked(function, made)

    return mark


def _require_parentheses(channels: tuple[Any, ...]) -> None:
    for bare in filter(callable, channels):
        raise ConfigError(f"@subscribe without a channel: {bare.__name__}", hint='write @subscribe("channel")')


def _marked(function: F, made: Mark) -> F:
    try:
        setattr(function, MARKS, (*getattr(function, MARKS, ()), made))
    except (AttributeError, TypeError) as error:  # a bound method, a builtin, an object with slots
        raise ConfigError(f"{function!r} cannot be marked", hint="mark a function of a module") from error
    return function


def name_of(function: Any) -> str:
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
    """Mark an async generator function as a lifespan of the worker: it runs once per process.

    What it yields is `Context.state` in every handler (of several lifespans, which are entered in the order they are
    written, `Context.resource` finds each by its type); what follows the ``yield`` runs after the drain.
    An error before the ``yield`` ends the process and a new one tries again; a `ConfigError` ends the worker.
    """

    def mark(function: L) -> L:
        setattr(function, LIFESPAN_MARK, True)
        return function

    return mark if function is None else mark(function)


Result: TypeAlias = Verdict | None
"""What a handler may return: None is a success. Any other value is a success too, and an answer (`Event.reply_to`)."""
BatchResult: TypeAlias = Sequence[Verdict | Exception | None] | None
"""What a batch handler may return: None when all is done, or for each item a verdict, an exception or None."""

HandlerFunction: TypeAlias = (
    Callable[[Any], Any] | Callable[[Any, Context[Any]], Any] | Callable[[Any, BatchContext[Any]], Any]
)
"""What `subscribe` may mark; the payload is whatever its annotation says, and any value may be an answer."""

Next = Callable[[Any, Any], Awaitable[Any]]
"""What a middleware awaits, with the event and its context: the next middleware, or the handler."""


class Middleware(Protocol):
    """``async def middleware(event: Any, ctx: AnyContext, call_next: Next) -> Any``.

    An async function, or an object that is called like one. It runs around handlers of both kinds: where
    ``ctx.is_batch``, `event` is the list of payloads and the result has one entry per item, or is None.
    """

    def __call__(self, event: Any, ctx: AnyContext[Any], call_next: Next, /) -> Awaitable[Any]:
        """Handle an event, most often by awaiting `call_next`; returns the outcome, which it may change."""
        ...
