"""A subscription as it will run: decorator, worker.toml and defaults put together, handler understood."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, NamedTuple

import msgspec

from hexa_worker.config.mistakes import suggest
from hexa_worker.core.classification import Rules
from hexa_worker.core.event_types import TypeReader
from hexa_worker.core.idempotency import EffectKey
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Route
from hexa_worker.errors import ConfigError, DecodeError
from hexa_worker.record_formats.form import Wire
from hexa_worker.subscriptions.api import Middleware
from hexa_worker.subscriptions.decisions import OutcomeHook
from hexa_worker.subscriptions.schedules import Schedule
from hexa_worker.subscriptions.ticker import Ticker

Style = Literal["async", "sync"]
Decode = Callable[[bytes], Any]
"""Payload bytes to what the annotation asks for. For bad bytes it raises one of the handler's `decode_errors`."""


DECORATOR, FILE, DEFAULT = "@subscribe", "worker.toml", "default"


class Setting(NamedTuple):
    """A setting as it holds, and who stated it: `DECORATOR`, `FILE`, or nobody (`DEFAULT`)."""

    value: Any
    stated_by: str


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """A user's function, understood.

    Attributes:
        function: the function as the user wrote it.
        where: ``file:line name``, for errors and tables.
        style: whether it runs on the loop or in a thread.
        takes_context: whether it has a second parameter.
        batch: whether it takes a list of payloads and a `BatchContext`.
        payload_type: the annotation's payload (the item type of a batch handler), as text for tables.
        state_type: what its context's annotation says of the state, as text; empty when it says nothing or admits None.
        ignored: what its annotation says it returns and nobody gets, as text; empty when there is nothing of that kind.
        returns_value: whether it may return something that is no outcome, for all that its annotation says.
        decode: see `Decode`.
        decode_errors: what `decode` raises for bad bytes; so it can be a bare C method without a frame around it.
    """

    function: Callable[..., Any]
    where: str
    style: Style
    takes_context: bool
    batch: bool
    payload_type: str
    state_type: str = ""
    ignored: str = ""
    returns_value: bool = True
    decode: Decode
    decode_errors: tuple[type[BaseException], ...] = (DecodeError,)


class SharedSource(msgspec.Struct, frozen=True, kw_only=True):
    """What the plans of one channel's types share: they read it in one group.

    Attributes:
        group: the durable name of their progress, and what their retry channels and dead letter are named after.
        read: tells the type of an event.
        actions: the action of each type.
        others: the action of all other types.
        order_by: what keeps its order, across the types.
        mailbox: how many events may wait until their action takes them.
        retry: the policy that needs the most retry channels.
        in_place: whether retries of some type wait in their place.
    """

    group: str
    read: TypeReader
    actions: dict[str, str]
    others: str
    order_by: OrderBy
    mailbox: int
    retry: RetryPolicy
    in_place: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is decided about one subscription before it runs.

    Attributes: as in `hexa_worker.config.model.Subscription`, with nothing left open; `timeout_s` None means
    without limit; `batch` 1 for handlers that take one payload; `effect_key` None means without deduplication;
    `schedule` is when a handler of `every` or `cron` runs; `internal` means that it is the runtime's own: no
    middlewares of the worker's are around it, and what waits in it is nothing left to do.
    `type` is that of the events it is for, in what it has `shared` with others; None: it reads alone.
    `settings` tells by key (``retry.jitter``) where each comes from.
    """

    action: str
    handler: Handler
    middlewares: tuple[Middleware, ...]
    channels: tuple[str, ...]
    pattern: str | None
    group: str
    retry_base: str
    start: Literal["earliest", "latest"]
    concurrency: int
    mailbox: int
    mailbox_bytes: int
    order_by: OrderBy
    timeout_s: float | None
    batch: int
    batch_wait_s: float
    threads: int
    retry: RetryPolicy
    rules: Rules = {}
    on_exhausted: Literal["dead_letter", "hold"] = "dead_letter"
    effect_key: EffectKey | None = None
    options: Any = None
    wire: Wire = "plain"
    reply_to: str | None = None
    schedule: Schedule | None = None
    internal: bool = False
    settings: Mapping[str, Setting] = {}
    type: str | None = None
    shared: SharedSource | None = None

    @property
    def route(self) -> Route:
        """Where its failures go."""
        return Route(
            action=self.action,
            retry_base=self.retry_base,
            policy=self.retry,
            in_place=self.in_place,
            rules=self.rules,
            holds=self.on_exhausted == "hold",
        )

    @property
    def in_place(self) -> OrderBy:
        """What a retry keeps its order with, waiting in its place; nothing where retry channels are used."""
        return self.order_by if self.retry.order == "key" else OrderBy.NONE


DISABLED = "disabled in worker.toml"
NOT_CHOSEN = "not among those of --only"


class OffPlan(msgspec.Struct, frozen=True):
    """A subscription that does not run here.

    Attributes:
        plan: it.
        reason: why, for people.
    """

    plan: Plan
    reason: str


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What the loader found: everything user-written that a process runs.

    Attributes:
        plans: one per subscription, in order of their actions.
        lifespan: makes the context manager that lives as long as the process; None: nobody wrote one.
        middlewares: the worker's own, outermost first.
        outcome_hooks: told what was decided about each delivery.
        ticker: makes handlers run by the clock; None: none does.
        off: subscriptions that have handlers here and do not run.
    """

    plans: tuple[Plan, ...]
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    middlewares: tuple[Middleware, ...] = ()
    outcome_hooks: tuple[OutcomeHook, ...] = ()
    ticker: Ticker | None = None
    off: tuple[OffPlan, ...] = ()

    def only(self, actions: Collection[str]) -> "Loaded":
        """The same with some of the subscriptions; with none named, all.

        Raises:
            ConfigError: one of them does not run, or is not there.
        """
        if not actions:
            return self
        off = {one.plan.action: one.reason for one in self.off}
        known = [plan.action for plan in self.plans if not plan.internal]
        for action in actions:
            if action in off:
                raise ConfigError(f"subscription {action} is {off[action]}", where="--only")
            if action not in known:
                hint = suggest(action, known, what="the subscriptions are")
                raise ConfigError(f"there is no subscription {action}", where="--only", hint=hint)
        kept = tuple(plan for plan in self.plans if plan.action in actions or plan.internal)
        others = tuple(OffPlan(plan, NOT_CHOSEN) for plan in self.plans if plan not in kept)
        return msgspec.structs.replace(self, plans=kept, off=(*self.off, *others))
