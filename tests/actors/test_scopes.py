"""What a handler call needs: resources by type, a scope of its own, middlewares around one event or a batch."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from hexa_worker import (
    Ack,
    AnyContext,
    BatchContext,
    ConfigError,
    Context,
    DeadLetter,
    Drop,
    Next,
    Resources,
    Retries,
    Retry,
    Snooze,
    lifespan,
    scope,
    subscribe,
)
from hexa_worker.testing import Harness
from hexa_worker.testing.virtual import Backend


@dataclass
class Pool:
    log: list[str] = field(default_factory=list)


class Api: ...


@scope
async def session(ctx: AnyContext) -> AsyncIterator[list[str]]:
    log = ctx.resource(Pool).log
    try:
        yield log
    except BaseException as error:
        log.append(f"rolled back: {type(error).__name__}")
        raise
    log.append("committed")


ENDS: list[tuple[Any, str, str]] = [
    (lambda: None, "committed", "acked"),
    (Ack, "committed", "acked"),
    (lambda: Drop("stale"), "committed", "acked"),
    (lambda: raising(Drop("stale")), "committed", "acked"),
    (lambda: raising(Ack()), "committed", "acked"),
    (lambda: raising(ValueError("no")), "rolled back: ValueError", "dead"),
    (lambda: ValueError("no"), "rolled back: ValueError", "dead"),
    (lambda: DeadLetter("no"), "rolled back: DeadLetter", "dead"),
    (lambda: raising(DeadLetter("no")), "rolled back: DeadLetter", "dead"),
    (lambda: Retry(after=1), "rolled back: Retry", "dead"),
    (lambda: Snooze(1), "rolled back: Snooze", "snoozed"),
]


def raising(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(("how", "expected", "end"), ENDS)
def test_a_scope_ends_as_its_handler_does_returned_or_raised(
    backend: Backend, how: Any, expected: str, end: str
) -> None:
    pool = Pool()

    @subscribe("orders", middlewares=[session], retry=Retries(maximum=0, maximum_snoozes=1))
    async def work(order: str, ctx: Context) -> Any:
        session.of(ctx).append("ran")
        return how() if not ctx.snoozes else None

    with Harness([work], state=pool, backend=backend) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    assert pool.log[:2] == ["ran", expected]
    assert {"acked": bool(h.acked), "dead": bool(h.dead_letters), "snoozed": bool(h.snoozed)}[end]


def test_each_call_has_a_scope_of_its_own_in_threads_and_batches_too(backend: Backend) -> None:
    seen: list[object] = []

    @scope
    async def unit(ctx: AnyContext) -> AsyncIterator[object]:
        yield object()

    @subscribe("orders", action="plain", middlewares=[unit])
    def plain(order: str, ctx: Context) -> None:
        seen.append(unit.of(ctx))

    @subscribe("orders", action="batch", batch=2, middlewares=[unit])
    async def batch(orders: list[str], ctx: BatchContext) -> None:
        seen.append(unit.of(ctx))

    with Harness([plain, batch], backend=backend) as h:
        for text in ("a", "b"):
            h.emit("orders", text)
        h.run_until_idle()
    assert len(h.acked) == 4
    assert len({id(one) for one in seen}) == len(seen) == 3


def test_a_scope_that_its_handler_does_not_name_is_told_so(backend: Backend) -> None:
    @subscribe("orders", retry=Retries(maximum=0))
    async def work(order: str, ctx: Context) -> None:
        session.of(ctx)

    with Harness([work], backend=backend) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    (dead,) = h.dead_letters
    assert dead.error == "ConfigError"
    assert "work runs outside of session" in dead.message
    assert "middlewares=[session]" in dead.message


def test_several_lifespans_are_entered_in_order_left_in_reverse_and_found_by_type(backend: Backend) -> None:
    happened: list[str] = []

    @lifespan
    async def pool() -> AsyncIterator[Pool]:
        happened.append("pool opens")
        yield Pool()
        happened.append("pool closes")

    @lifespan
    async def api() -> AsyncIterator[Api]:
        happened.append("api opens")
        yield Api()
        happened.append("api closes")

    @subscribe("orders")
    async def work(order: str, ctx: Context) -> None:
        happened.append(f"{type(ctx.resource(Api)).__name__}, {type(ctx.resource(Pool)).__name__}")
        assert isinstance(ctx.state, Resources)
        with pytest.raises(ConfigError, match="no lifespan yielded a dict"):
            ctx.resource(dict)

    with Harness([pool, api, work], backend=backend) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    assert len(h.acked) == 1
    assert happened == ["pool opens", "api opens", "Api, Pool", "api closes", "pool closes"]


def test_when_a_later_lifespan_fails_the_earlier_ones_are_left(backend: Backend) -> None:
    happened: list[str] = []

    @lifespan
    async def first() -> AsyncIterator[Pool]:
        try:
            yield Pool()
        finally:
            happened.append("left")

    @lifespan
    async def second() -> AsyncIterator[Api]:
        raise ConnectionError("away")
        yield

    @subscribe("orders")
    async def work(order: str) -> None: ...

    with Harness([first, second, work], backend=backend) as h:
        h.emit("orders", "x")
        with pytest.raises(ConnectionError):
            h.run_until_idle()
    assert happened == ["left"]


def test_one_resource_is_found_by_its_type_too_and_a_test_may_give_several(backend: Backend) -> None:
    @subscribe("orders")
    async def work(order: str, ctx: Context) -> None:
        assert ctx.resource(Pool).log == ["given"]

    for state in (Pool(["given"]), Resources(Api(), Pool(["given"]))):
        with Harness([work], state=state, backend=backend) as h:
            h.emit("orders", "x")
            h.run_until_idle()
        assert len(h.acked) == 1


def test_a_middleware_serves_one_event_and_a_batch_and_knows_which(backend: Backend) -> None:
    seen: list[tuple[bool, int, Any]] = []

    class Counting:
        async def __call__(self, event: Any, ctx: AnyContext, call_next: Next) -> Any:
            seen.append((ctx.is_batch, len(ctx.items), event))
            return await call_next(event, ctx)

    counting = Counting()

    @subscribe("orders", action="one", middlewares=[counting])
    async def one(order: str) -> None: ...

    @subscribe("orders", action="batch", batch=2, middlewares=[counting])
    async def batch(orders: list[str]) -> None: ...

    with Harness([one, batch], backend=backend) as h:
        for text in ("a", "b"):
            h.emit("orders", text)
        h.run_until_idle()
    assert sorted(seen, key=str) == [(False, 1, "a"), (False, 1, "b"), (True, 2, ["a", "b"])]
