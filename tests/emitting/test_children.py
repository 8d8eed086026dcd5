"""What a child takes over from the event that its handler handles."""

from typing import Any

import pytest

from hexa_worker import Context, Event, User
from hexa_worker.clock import SystemClock
from hexa_worker.codecs import encode
from hexa_worker.core.lineage import CORRELATION_ID
from hexa_worker.core.message import header
from hexa_worker.core.propagated import carried_from
from hexa_worker.drivers.memory import MemoryDriver
from hexa_worker.event_encoder import EventEncoder as Preparer
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
USER = User(type="_regular", identifier="u-1", name="Ada", is_active=True, roles=("admin",))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def run(stage: WorkerFixture, handle: Any, **settings: Any) -> None:
    preparer = Preparer(MemoryDriver(stage.store), SystemClock(), encode)
    headers = {"traceparent": TRACE, "tracestate": "a=b", "own": "stays behind"}
    await preparer.emit(
        Event(channel="events", payload=1, headers=headers, correlation_id="req-1", user=USER, locale="de")
    )
    assert await stage.run(plan_of(handle, **settings)) == 0
    assert stage.kinds() == ["Acked"]


@pytest.mark.anyio
async def test_a_child_takes_over_correlation_id_user_locale_and_trace() -> None:
    stage, seen = WorkerFixture(), list[Any]()

    async def handle(_payload: int, ctx: Context) -> None:
        seen.append((ctx.correlation_id, ctx.user, ctx.locale))
        await ctx.emit("children", 2)

    await run(stage, handle)
    assert seen == [("req-1", USER, "de")]
    (child,) = await MemoryDriver(stage.store).browse("children", -1, 10)
    assert header(child.headers, CORRELATION_ID) == b"req-1"
    assert header(child.headers, "traceparent") == TRACE.encode()
    assert header(child.headers, "tracestate") == b"a=b"
    assert header(child.headers, "_ctx_locale") == b"de"
    assert len(carried_from(child.headers)) == 5
    assert header(child.headers, "own") is None


@pytest.mark.anyio
async def test_what_a_child_says_itself_wins() -> None:
    stage = WorkerFixture()

    async def handle(_payload: int, ctx: Context) -> None:
        await ctx.emit("children", 2, headers={"traceparent": "mine"})

    await run(stage, handle)
    (child,) = await MemoryDriver(stage.store).browse("children", -1, 10)
    assert [value for name, value in child.headers if name == "traceparent"] == [b"mine"]


@pytest.mark.anyio
async def test_a_child_of_a_plain_function_takes_the_same() -> None:
    stage = WorkerFixture()

    def handle(_payload: int, ctx: Context) -> None:
        ctx.emit_sync("children", 2)

    await run(stage, handle, style="sync")
    (child,) = await MemoryDriver(stage.store).browse("children", -1, 10)
    assert header(child.headers, CORRELATION_ID) == b"req-1"
