"""Events that expire: whatever they waited for, they are not run after their time."""

from datetime import timedelta

import anyio
import pytest

from hexa_worker import BatchContext, ConfigError, Context, Retry, subscribe
from hexa_worker.core.expiry import EXPIRES_AT
from hexa_worker.core.message import Message
from hexa_worker.testing import Harness
from hexa_worker.testing.virtual import EPOCH_MS, Backend


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param  # type: ignore[no-any-return]


def test_an_event_that_comes_after_its_time_is_dropped_and_others_run(backend: Backend) -> None:
    ran: list[int] = []

    @subscribe("prices", action="show")
    async def show(price: int, ctx: Context) -> None:
        ran.append(price)

    h = Harness([show], backend=backend)
    h.emit("prices", 1, expires_in=30)
    h.emit("prices", 2, expires_in=timedelta(seconds=60))
    h.emit("prices", 3)
    h.advance(30.1)
    h.run_until_idle()
    assert sorted(ran) == [2, 3]
    assert sorted((one.payload, one.message) for one in h.acked) == [(1, "it has expired"), (2, ""), (3, "")]


def test_an_event_that_expires_while_it_waits_for_its_lane_or_its_retry_is_not_run(backend: Backend) -> None:
    ran: list[tuple[str, int]] = []

    @subscribe("jobs", action="do", concurrency=1, timeout_s=200)
    async def do(name: str, ctx: Context) -> None:
        ran.append((name, ctx.attempt))
        assert name == "last" or ctx.expires_at is not None
        if name == "fails":
            raise Retry(after=100)
        if name == "slow":
            await anyio.sleep(100)

    h = Harness([do], backend=backend)
    h.emit("jobs", "fails", expires_in=50)
    h.emit("jobs", "slow", expires_in=50)
    h.emit("jobs", "queued", expires_in=50)
    h.emit("jobs", "last")
    h.run_until_idle()
    assert ran == [("fails", 0), ("slow", 0), ("last", 0)]
    assert len([one for one in h.acked if one.reason == "dropped"]) == 2


def test_the_time_of_an_event_for_later_begins_when_it_is_due(backend: Backend) -> None:
    ran: list[int] = []

    @subscribe("jobs", action="do")
    async def do(number: int, ctx: Context) -> None:
        ran.append(number)

    h = Harness([do], backend=backend)
    h.emit("jobs", 1, after=3600, expires_in=60)
    h.run_until_idle()
    assert ran == [1]


def test_a_batch_leaves_out_what_has_expired(backend: Backend) -> None:
    ran: list[list[int]] = []

    @subscribe("jobs", action="do", batch=10)
    async def do(numbers: list[int], ctx: BatchContext) -> None:
        ran.append(numbers)

    h = Harness([do], backend=backend)
    for number in range(6):
        h.emit("jobs", number, expires_in=10 if number % 2 else None)
    h.advance(11)
    h.run_until_idle()
    assert sorted(number for batch in ran for number in batch) == [0, 2, 4]


def test_an_expiry_that_nobody_can_read_is_none() -> None:
    ran: list[int] = []

    @subscribe("jobs", action="do")
    async def do(number: int, ctx: Context) -> None:
        ran.append(number)
        assert ctx.expires_at is None

    h = Harness([do])
    for number, value in enumerate((b"", b"soon", b"-1", b"9" * 40, b"\xff")):
        h.emit_raw(Message(channel="jobs", payload=b"%d" % number, headers=((EXPIRES_AT, value),)))
    h.run_until_idle()
    assert ran == [0, 1, 2, 3, 4]
    h.emit_raw(Message(channel="jobs", payload=b"9", headers=((EXPIRES_AT, b"%d" % EPOCH_MS),)))
    h.run_until_idle()
    assert ran == [0, 1, 2, 3, 4]


def test_a_time_that_is_none_is_refused() -> None:
    @subscribe("jobs", action="do")
    async def do(number: int) -> None: ...

    h = Harness([do])
    for value in (-1, float("inf"), "1", timedelta(days=400)):
        with pytest.raises(ConfigError, match="expires_in"):
            h.emit("jobs", 1, expires_in=value)  # type: ignore[arg-type]  # one of them is a text
