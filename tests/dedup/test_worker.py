"""A whole worker with claims in Redis, on every event loop; and under the harness, where nothing is connected to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import Context
from hexa_worker.config.dedup import Dedup
from hexa_worker.config.secret import Secret
from hexa_worker.core import lineage
from hexa_worker.core.idempotency import by_event
from hexa_worker.core.message import Message
from hexa_worker.testing import Harness
from tests.actors.conftest import BACKENDS, plan_of
from tests.actors.worker_fixture import WorkerFixture
from tests.lab.base import Broker


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.anyio
@pytest.mark.redis
async def test_a_worker_holds_its_events_while_redis_is_gone_and_goes_on_when_it_is_back(
    redis: Broker, unique_name: Callable[..., str]
) -> None:
    name, seen = unique_name(), list[int]()
    stage = WorkerFixture(dedup=Dedup(store="redis", url=Secret(redis.address), on_store_failure="hold"))

    async def handle(number: int, ctx: Context) -> None:
        assert ctx.fence
        seen.append(number)

    def emit_twice(number: int) -> None:
        headers = ((lineage.EVENT_ID, b"event-%d" % number),)
        for _ in range(2):
            stage.store.append(Message(channel="events", payload=msgspec.json.encode(number), headers=headers))
        stage.store.wake()

    plan = plan_of(handle, effect_key=lambda delivery: f"{name}:{by_event(delivery)}")
    async with stage.running(plan):
        emit_twice(1)
        while not seen:
            await anyio.sleep(0.01)
        redis.kill()
        emit_twice(2)
        await anyio.sleep(0.5)
        assert seen == [1]
        redis.start()
        while len(stage.settled) < 4:
            await anyio.sleep(0.01)
    assert seen == [1, 2]


def test_the_harness_deduplicates_without_the_configured_store(tmp_path: Path) -> None:
    (tmp_path / "dedup_sample.py").write_text(
        "from hexa_worker import subscribe\n\n\n@subscribe('jobs')\nasync def work(number: int) -> None:\n    pass\n"
    )
    (tmp_path / "worker.toml").write_text(
        '[worker]\nname = "w"\nhandlers = ["dedup_sample"]\n[dedup]\nstore = "redis"\nurl = "redis://127.0.0.1:1"\n'
    )
    with Harness.from_config(tmp_path / "worker.toml") as harness:
        for _ in range(2):
            harness.emit("jobs", 1, event_id="event-1")
            harness.run_until_idle()
        assert [one.reason for one in harness.acked] == ["", "dropped"]
