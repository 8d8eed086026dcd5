"""Nothing that a handler does takes its worker along: it fails that delivery by its name, or works."""

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import BatchContext, Context, DeadLetter, Retry
from hexa_worker.core import settlement
from hexa_worker.core.message import header
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import RetryAt
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio
OTHERS = 4


class TextExits(Exception):
    def __str__(self) -> str:
        raise SystemExit


class TextIsNone(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # noqa: PLE0307 - what is tried


class Text(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise SystemExit


class TextIsHostile(Exception):
    def __str__(self) -> str:
        return Text("x" * 5000)


class ReprExits(Exception):
    def __repr__(self) -> str:
        raise SystemExit


class Bare(DeadLetter):
    """Its constructor never calls the one it has inherited."""

    def __init__(self, order: int) -> None:
        self.order = order


class BareRetry(Retry):
    def __init__(self, order: int) -> None:
        self.order = order


class Odd:
    """Says that it is of a class that is none."""

    @property  # type: ignore[misc]  # what is tried
    def __class__(self) -> Any:
        raise SystemExit

    def __bool__(self) -> bool:
        raise SystemExit


def raising(error: BaseException) -> Callable[[], Any]:
    def run() -> None:
        raise error

    return run


def with_reason(reason: Any) -> DeadLetter:
    verdict = DeadLetter()
    verdict.reason = reason
    return verdict


def with_delay(after: Any) -> Retry:
    verdict = Retry()
    verdict.after = after
    return verdict


def cyclic() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def chained() -> None:
    error: BaseException | None = None
    for number in range(2_000):
        following = ValueError(number)
        following.__context__ = error
        error = following
    assert error is not None
    raise error


def nested() -> None:
    error: Exception = ValueError("innermost")
    for _ in range(2_000):
        error = ExceptionGroup("group", [error])
    raise error


def endless() -> Any:
    return endless()


ENDS: list[tuple[Callable[[], Any], str]] = [
    (raising(TextExits()), "TextExits"),
    (raising(TextIsNone()), "TextIsNone"),
    (raising(TextIsHostile()), "TextIsHostile"),
    (raising(ReprExits()), "ReprExits"),
    (raising(ValueError(*range(100_000))), "ValueError"),
    (raising(ValueError("\ud800\0")), "ValueError"),
    (raising(MemoryError()), "MemoryError"),
    (raising(StopIteration(1)), "RuntimeError"),
    (raising(StopAsyncIteration(1)), "StopAsyncIteration"),
    (raising(GeneratorExit()), "GeneratorExit"),
    (raising(Bare(1)), "DeadLetter"),
    (lambda: Bare(1), "DeadLetter"),
    (lambda: Bare, "TypeError"),
    (raising(BareRetry(1)), "Retry"),
    (lambda: Retry(after=float("nan")), "ValueError"),
    (lambda: Retry(after=float("inf")), "Retry"),
    (lambda: Retry(after=-5), "Retry"),
    (lambda: Retry(after=timedelta(seconds=1)), "Retry"),
    (lambda: with_delay("soon"), "Retry"),
    (lambda: with_reason(5), "TypeError"),
    (lambda: ValueError("returned"), "ValueError"),
    (lambda: ValueError, "ValueError"),
    (lambda: (number for number in range(3)), "TypeError"),
    (lambda: sys.exit(3), "SystemExit"),
    (Odd, "SystemExit"),
    (cyclic, "ValueError"),
    (chained, "ValueError"),
    (nested, "ExceptionGroup"),
    (endless, "RecursionError"),
]


def name_of(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", "")


@pytest.mark.parametrize("style", ["async", "sync", "batch"])
@pytest.mark.parametrize(("end", "error"), ENDS, ids=name_of)
async def test_whatever_a_handler_ends_with_is_the_failure_of_its_own_delivery(
    style: str, end: Callable[[], Any], error: str
) -> None:
    stage, seen = WorkerFixture(), list[int]()

    async def handle(number: int, _ctx: Context) -> Any:
        if number == 0:
            return end()
        seen.append(number)
        return None

    def plain(number: int, _ctx: Context) -> Any:
        if number == 0:
            return end()
        seen.append(number)
        return None

    async def many(numbers: list[int], _ctx: BatchContext) -> Any:
        results = [end() if number == 0 else None for number in numbers]
        seen.extend(number for number in numbers if number)
        return results

    how: dict[str, Any] = {"retry": RetryPolicy(maximum_retries=0), "concurrency": 2}
    plans = {
        "async": lambda: plan_of(handle, **how),
        "sync": lambda: plan_of(plain, style="sync", **how),
        "batch": lambda: plan_of(many, batch=1, **how),
    }
    for number in range(OTHERS + 1):
        stage.emit(number)
    assert await stage.run(plans[style]()) == 0
    [letter] = await stage.dead()
    assert (header(letter.headers, settlement.ERROR) or b"").decode() == error
    assert len(header(letter.headers, settlement.ERROR_MESSAGE) or b"") < 10_000
    assert sorted(seen) == list(range(1, OTHERS + 1))
    assert_never_restarted(stage)
    assert all(msgspec.msgpack.encode(report) for report in stage.reports), "its process could not tell its parent"


def assert_never_restarted(stage: WorkerFixture) -> None:
    assert sum(one.counters.restarts for one in stage.reports[-1].subscriptions) == 0


@pytest.mark.parametrize("style", ["one", "batch"])
async def test_a_handler_that_cancels_the_task_it_runs_in_disturbs_nobody(anyio_backend: Any, style: str) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("a task of trio cannot be cancelled so")
    stage, seen = WorkerFixture(), list[Any]()

    async def handle(number: Any, _ctx: Any) -> None:
        seen.append(number)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    for number in range(10):
        stage.emit(number)
    how: dict[str, Any] = {"batch": 1} if style == "batch" else {}
    assert await stage.run(plan_of(handle, concurrency=2, **how)) == 0
    assert len(seen) == 10
    assert stage.kinds() == ["Acked"] * 10
    assert_never_restarted(stage)


@pytest.mark.parametrize("style", ["one", "batch"])
async def test_a_model_that_exits_while_it_is_read_dead_letters_its_payload(style: str) -> None:
    stage, seen = WorkerFixture(), list[Any]()

    def decode(payload: bytes) -> Any:
        if payload == b"0":
            raise SystemExit
        return payload

    async def handle(payload: Any, _ctx: Any) -> None:
        seen.append(payload)

    for number in range(3):
        stage.emit(number)
    how: dict[str, Any] = {"batch": 1} if style == "batch" else {}
    assert await stage.run(plan_of(handle, decode=decode, concurrency=1, **how)) == 0
    [letter] = await stage.dead()
    assert header(letter.headers, settlement.REASON) == b"undecodable"
    assert len(seen) == 2
    assert_never_restarted(stage)


async def test_a_handler_may_run_an_event_loop_of_its_own_in_its_thread() -> None:
    def handle(_payload: Any, _ctx: Context) -> None:
        asyncio.run(asyncio.sleep(0))
        asyncio.set_event_loop(None)

    stage = WorkerFixture()
    stage.emit(1)
    assert await stage.run(plan_of(handle, style="sync")) == 0
    assert stage.kinds() == ["Acked"]


async def test_a_payload_that_exits_while_it_is_written_fails_its_delivery() -> None:
    class Hostile(dict[str, int]):
        @property  # type: ignore[misc]  # what is tried
        def __class__(self) -> Any:
            raise SystemExit

    class Fields:
        def __getattr__(self, name: str) -> Any:
            raise SystemExit

    async def handle(number: int, ctx: Context) -> None:
        await ctx.emit("children", [Hostile(), Fields()][number])

    stage = WorkerFixture()
    stage.emit(0)
    stage.emit(1)
    assert await stage.run(plan_of(handle, retry=RetryPolicy(maximum_retries=0))) == 0
    assert set(stage.kinds()) <= {"DeadLettered", "Acked"}
    assert_never_restarted(stage)


async def test_a_deadline_that_is_no_number_is_refused() -> None:
    async def handle(_number: int, ctx: Context) -> None:
        with pytest.raises(ValueError, match="NaN"):
            ctx.extend(float("nan"))
        await anyio.sleep(10)

    stage = WorkerFixture()
    stage.emit(0)
    await stage.run(plan_of(handle, timeout_s=0.05, retry=RetryPolicy(maximum_retries=0)))
    [letter] = await stage.dead()
    assert header(letter.headers, settlement.ERROR) == b"HandlerTimeout"


async def test_a_retry_may_say_its_delay_as_a_timedelta() -> None:
    async def handle(_number: int, ctx: Context) -> None:
        if not ctx.attempt:
            raise Retry(after=timedelta(milliseconds=20))

    stage = WorkerFixture()
    stage.emit(0)
    await stage.run(plan_of(handle))
    [retry] = [one for one in stage.settled if isinstance(one, RetryAt)]
    assert retry.delay_s == 0.02
