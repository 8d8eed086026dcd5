"""A value that a handler returns goes to whoever expects an answer, before its delivery is acknowledged."""

from typing import Any

import anyio
import pytest

from hexa_worker import Ack, AnyContext, BatchContext, Context, Event, Next, Verdict, subscribe
from hexa_worker.core.message import Message
from hexa_worker.drivers.memory import MemoryDriver
from hexa_worker.errors import ConfigError, DriverError, DriverRejected, DriverUnavailable
from hexa_worker.testing import Harness
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture


@subscribe("sums", action="add")
async def add(numbers: list[int]) -> int:
    return sum(numbers)


def test_an_answer_is_a_child_of_what_it_answers_and_keeps_its_key() -> None:
    with Harness([add]) as harness:
        asked = harness.emit("sums", [1, 2], key="k", correlation_id="c", reply_to="answers")
        harness.run_until_idle()
    (answer,) = harness.emitted
    assert (answer.channel, answer.payload, answer.key) == ("answers", 3, "k")
    assert (answer.parent_id, answer.root_id) == (asked, asked)
    assert [one.event_id for one in harness.acked] == [asked]


@pytest.mark.parametrize("where", ["decorator", "worker.toml"])
def test_a_subscription_may_say_where_its_answers_go_and_an_event_knows_better(where: str) -> None:
    @subscribe("sums", action="add", reply_to="results" if where == "decorator" else None)
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    settings: dict[str, Any] = {} if where == "decorator" else {"add": {"reply_to": "results"}}
    with Harness([total], settings=settings) as harness:
        harness.emit("sums", [1])
        harness.emit("sums", [2], reply_to="answers")
        harness.run_until_idle()
    assert sorted((one.channel, one.payload) for one in harness.emitted) == [("answers", 2), ("results", 1)]


def test_a_value_that_nobody_expects_goes_nowhere() -> None:
    with Harness([add]) as harness:
        harness.emit("sums", [1])
        harness.emit_raw(Message(channel="sums", payload=b"[1]", headers=(("_reply_channel", b""),)))
        harness.run_until_idle()
    assert (len(harness.acked), harness.emitted) == (2, [])


@pytest.mark.parametrize("result", [None, Ack(), Ack])
def test_what_is_no_value_is_no_answer(result: Any) -> None:
    @subscribe("sums", action="add")
    async def nothing(numbers: list[int]) -> Any:
        return result

    with Harness([nothing]) as harness:
        harness.emit("sums", [1], reply_to="answers")
        harness.run_until_idle()
    assert (len(harness.acked), harness.emitted) == (1, [])


def test_a_child_expects_no_answer_for_its_parent() -> None:
    @subscribe("orders", action="split")
    async def split(order: int, ctx: Context) -> None:
        assert ctx.reply_to == "answers"
        await ctx.emit("sums", [order])

    with Harness([split, add]) as harness:
        harness.emit("orders", 1, reply_to="answers")
        harness.run_until_idle()
    assert [one.channel for one in harness.emitted] == ["sums"]


def test_each_item_of_a_batch_is_answered_where_it_asked() -> None:
    @subscribe("sums", action="add", batch=10)
    async def totals(sums: list[list[int]], ctx: BatchContext) -> list[int | Verdict | None]:
        return [sum(numbers) or Ack() for numbers in sums]

    with Harness([totals]) as harness:
        harness.emit("sums", [1], reply_to="a")
        harness.emit("sums", [0], reply_to="a")
        harness.emit("sums", [2], reply_to="b")
        harness.emit("sums", [3])
        harness.run_until_idle()
    assert sorted((one.channel, one.payload) for one in harness.emitted) == [("a", 1), ("b", 2)]
    assert len(harness.acked) == 4


def test_a_plain_function_answers_too_and_what_a_middleware_makes_of_it() -> None:
    async def double(event: Any, ctx: AnyContext, call_next: Next) -> Any:
        return 2 * await call_next(event, ctx)

    @subscribe("sums", action="add", middlewares=[double])
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    with Harness([total]) as harness:
        harness.emit("sums", [1, 2], reply_to="answers")
        harness.run_until_idle()
    assert [one.payload for one in harness.emitted] == [6]


def test_a_delivery_that_comes_again_gives_the_same_answer() -> None:
    with Harness([add]) as harness:
        harness.crash_before_acknowledging()
        harness.emit("sums", [1, 2], reply_to="answers")
        harness.run_until_idle()
    first, second = harness.emitted
    assert (first.event_id, first.payload) == (second.event_id, second.payload)


class Mute(MemoryDriver):
    """Takes no answer."""

    error: DriverError

    async def publish(self, messages: Any) -> Any:
        return [self.error for _ in messages]


@pytest.mark.anyio
@pytest.mark.parametrize("error", [DriverRejected("no such channel"), DriverUnavailable("away")])
async def test_a_delivery_whose_answer_is_not_stored_is_not_acknowledged(error: DriverError) -> None:
    async def total(numbers: list[int], ctx: Context) -> int:
        return sum(numbers)

    stage = WorkerFixture()
    stage.store.append(Message(channel="events", payload=b"[1]", headers=(("_reply_channel", b"answers"),)))
    driver = Mute(stage.store)
    driver.error = error
    async with stage.running(plan_of(total, timeout_s=None), driver=driver):
        while not stage.settled:
            await anyio.sleep(0.001)
    wanted = "DeadLettered" if isinstance(error, DriverRejected) else "RetryAt"
    assert stage.kinds()[0] == wanted


def test_a_channel_that_cannot_be_is_refused() -> None:
    with Harness([add]) as harness, pytest.raises(ConfigError, match="reply_to must be str, not int"):
        harness.emit("sums", [1], reply_to=3)  # type: ignore[arg-type]
    assert Event("sums", reply_to="answers").reply_to == "answers"
