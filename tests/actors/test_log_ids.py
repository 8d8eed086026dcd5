"""Log lines of any library name the delivery that they are about, as far as that is known."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from hexa_worker import BatchContext, Context, DeliveryFilter
from hexa_worker.core.lineage import CORRELATION_ID
from hexa_worker.core.message import Message
from hexa_worker.core.outcome import DeadLetter
from hexa_worker.telemetry.format import JsonFormatter
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio

library = logging.getLogger("some.library")
EVENTS = 20


class Lines(logging.Handler):
    """Log lines, made when and where they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter(None))
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.lines if one["logger"] == name]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, root = Lines(), logging.getLogger()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)


def emitted(stage: WorkerFixture) -> WorkerFixture:
    for number in range(EVENTS):
        stage.store.append(Message(channel="events", payload=str(number).encode(), headers=((CORRELATION_ID, b"c"),)))
    return stage


async def in_task(number: int, ctx: Context) -> None:
    await anyio.sleep(0.001)
    library.info("%s", ctx.event_id, extra={"number": number})


def in_thread(number: int, ctx: Context) -> None:
    library.info("%s", ctx.event_id, extra={"number": number})


@pytest.mark.parametrize("handler", [in_task, in_thread])
async def test_a_line_of_a_library_names_the_delivery_in_flight(lines: Lines, handler: Any) -> None:
    style = "async" if handler is in_task else "thread"
    await emitted(WorkerFixture()).run(plan_of(handler, style=style, concurrency=4))
    found = lines.of("some.library")
    assert {one["number"] for one in found} == set(range(EVENTS))
    for one in found:
        assert one["event_id"] == one["message"]
        assert (one["action"], one["attempt"], one["correlation_id"]) == ("act", 0, "c")


async def test_a_line_of_a_task_in_the_handlers_own_group_names_the_delivery(lines: Lines) -> None:
    async def handle(number: int, ctx: Context) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(in_task, number, ctx)

    await emitted(WorkerFixture()).run(plan_of(handle, concurrency=4))
    found = lines.of("some.library")
    assert len(found) == 2 * EVENTS
    assert all(one["event_id"] == one["message"] for one in found)


class Formatted(logging.Handler):
    """What an application's own format makes of records."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s %(action)s %(event_id)s %(attempt)s %(correlation_id)s"))
        self.addFilter(DeliveryFilter())
        self.lines: list[str] = []
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.lines.append(self.format(record))


@pytest.mark.parametrize("style", ["async", "thread"])
async def test_a_format_of_the_applications_own_may_name_the_delivery_and_has_what_extra_says(style: Any) -> None:
    own = Formatted()

    def say(number: int, ctx: Context) -> None:
        for one in (library, ctx.logger):
            one.info("told", extra={"number": number, "action": "mine"} if number else {"number": 0})

    async def say_async(number: int, ctx: Context) -> None:
        say(number, ctx)

    for name in ("some.library", "hexa_worker.handler"):
        logging.getLogger(name).addHandler(own)
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        library.info("outside")
        await emitted(WorkerFixture()).run(plan_of(say_async if style == "async" else say, style=style, concurrency=1))
    finally:
        for name in ("some.library", "hexa_worker.handler"):
            logging.getLogger(name).removeHandler(own)
            logging.getLogger(name).setLevel(logging.NOTSET)
    assert own.lines[:4] == [
        "outside None None None None",
        "told act events-0 0 c",
        "told act events-0 0 c",
        "told mine events-1 0 c",
    ]
    assert [one.number for one in own.records[1:]] == [number for number in range(EVENTS) for _ in range(2)]  # type: ignore[attr-defined]  # from extra


async def test_a_batch_is_named_by_its_action_and_size(lines: Lines) -> None:
    async def handle(_numbers: list[int], _ctx: BatchContext) -> None:
        library.info("x")

    await emitted(WorkerFixture()).run(plan_of(handle, batch=EVENTS, batch_wait_s=5.0, concurrency=1))
    [one] = lines.of("some.library")
    assert (one["action"], one["in_hand"]) == ("act", EVENTS)
    assert "event_id" not in one


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_outlives_its_delivery_names_no_other_one(lines: Lines) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await asyncio.sleep(0.01)
        library.info("later")

    async def handle(_number: int, _ctx: Context) -> None:
        tasks.append(asyncio.create_task(later()))
        await asyncio.sleep(0.002)

    await emitted(WorkerFixture()).run(plan_of(handle, concurrency=1))
    await asyncio.gather(*tasks)
    assert len(lines.of("some.library")) == EVENTS
    assert not [one for one in lines.of("some.library") if "event_id" in one]


async def test_a_failure_names_its_event_and_a_dead_letter_says_where_it_failed(lines: Lines) -> None:
    async def handle(_number: int, _ctx: Context) -> None:
        raise DeadLetter("hopeless") from KeyError("the cause")

    await emitted(WorkerFixture()).run(plan_of(handle))
    first, *more = lines.of("hexa_worker.delivery")
    assert (first["next"], first["correlation_id"]) == ("dead letter", "c")
    assert first["event_id"] == first["root_id"]
    assert "KeyError: 'the cause'" in first["traceback"]
    assert not [one for one in more if "traceback" in one]
