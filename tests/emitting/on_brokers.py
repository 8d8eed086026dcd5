"""Emitting on every broker from web services and threads: the same claims; the file of each broker takes them over."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from hexa_worker import Emitter, Event, SyncEmitter, User, serve_worker
from hexa_worker.config.load import load_config
from hexa_worker.core.lineage import CORRELATION_ID, lineage_of
from hexa_worker.core.message import Delivery, header
from hexa_worker.core.propagated import read_user
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.opening import make_driver, opened
from hexa_worker.errors import DriverUnavailable

COUNT = 60
USER = User(type="_regular", identifier="u-1", name="Ada Łovelace <&>", is_active=True, roles=("admin",))
BACKENDS = ["asyncio", "trio"]
WORKER = '[worker]\nname = "web"\nhandlers = ["none"]\n[broker]\n{broker}\n'
PLENTY = 64 * 1024 * 1024


class Web(NamedTuple):
    """A web service's worker.toml, and the channel that it emits to; somebody reads it."""

    config: Path
    channel: str


def web_service(folder: Path, broker: str, name: str) -> Web:
    """A channel on a broker, made ready.

    Args:
        folder: where worker.toml is written.
        broker: the lines of ``[broker]``.
        name: what names begin with.
    """
    web = Web(folder / "worker.toml", f"{name}.in")
    web.config.write_text(WORKER.format(broker=broker))
    anyio.run(_declare, web)
    return web


def _spec(web: Web) -> SubscriptionSpec:
    name = web.channel.removesuffix(".in")
    return SubscriptionSpec(action=name, group=name, channels=(web.channel,), retry_base=name, retry_count=0)


async def _declare(web: Web) -> None:
    async with opened(make_driver(load_config(web.config))) as driver:
        await driver.declare([_spec(web)])


def stored(web: Web, count: int = COUNT) -> dict[int, Delivery]:
    """What the broker has, by the number in the payload."""

    async def read() -> list[Delivery]:
        found: list[Delivery] = []
        async with opened(make_driver(load_config(web.config))) as driver:
            source = await driver.subscribe(_spec(web))
            with anyio.fail_after(60):
                while len(found) < count:
                    try:
                        batch = await source.receive(1_000, PLENTY)
                    except DriverUnavailable:
                        await anyio.sleep(0.1)
                        continue
                    await source.settle([Acked(one) for one in batch])
                    found += batch
            await source.close()
        return found

    return {int(one.payload): one for one in anyio.run(read)}


def check(web: Web, ids: Sequence[str]) -> None:
    """Everything that was confirmed is there, with all that was said of it."""
    found = stored(web)
    assert sorted(found) == list(range(COUNT))
    for number, event_id in enumerate(ids):
        one = found[number]
        assert lineage_of(one).event_id == event_id
        assert header(one.headers, CORRELATION_ID) == b"req-%d" % number
        assert read_user(header(one.headers, "_ctx_user")) == USER
        assert one.key == b"k%d" % (number % 7)


def said(number: int) -> dict[str, Any]:
    """What is said of an event beside its channel and payload."""
    return {"key": f"k{number % 7}", "correlation_id": f"req-{number}", "user": USER}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_an_async_application_emits_is_confirmed_and_says_who_asked_for_it(web: Web, backend: str) -> None:
    ids = [""] * COUNT

    async def serve() -> None:
        async with Emitter.from_config(web.config) as emitter, anyio.create_task_group() as requests:

            async def request(number: int) -> None:
                ids[number] = await emitter.emit(web.channel, number, **said(number))

            for number in range(COUNT):
                requests.start_soon(request, number)

    anyio.run(serve, backend=backend)
    check(web, ids)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_many_emits_at_once_few_are_under_way_and_the_others_wait_for_room(web: Web, backend: str) -> None:
    ids, pending = [""] * COUNT, list[int]()

    async def serve() -> None:
        driver = make_driver(load_config(web.config))
        async with Emitter(driver, max_pending=5) as emitter, anyio.create_task_group() as requests:

            async def request(number: int) -> None:
                ids[number] = await emitter.emit(web.channel, number, **said(number))
                pending.append(emitter._pending)

            for number in range(COUNT):
                requests.start_soon(request, number)

    anyio.run(serve, backend=backend)
    assert max(pending) <= 5
    assert any(pending), "nothing ever waited"
    check(web, ids)


def test_threads_emit_through_one_synchronous_emitter(web: Web) -> None:
    with SyncEmitter.from_config(web.config) as emitter, ThreadPoolExecutor(8) as pool:
        ids = list(
            pool.map(lambda number: emitter.emit(web.channel, number, **said(number)), range(COUNT // 2)),
        )
        rest = [
            emitter.submit(Event(channel=web.channel, payload=number, **said(number)))
            for number in range(COUNT // 2, COUNT)
        ]
        ids += [future.result(60) for future in rest]
    check(web, ids)


ADDS = """
from hexa_worker import subscribe

@subscribe("{channel}", action="{action}", reply_to="{channel}.unasked")
async def add(numbers: list[int]) -> int:
    return sum(numbers)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_request_is_answered_by_a_worker(web: Web, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, name = web.config.parent, web.channel.removesuffix(".in")
    monkeypatch.syspath_prepend(str(folder))  # and put back what a worker changes
    (folder / "adding_handlers.py").write_text(ADDS.format(channel=f"{name}.sums", action=f"{name}.add"))
    adder = folder / "adder.toml"
    adder.write_text(web.config.read_text().replace('"none"', '"adding_handlers"'))

    async def ask() -> list[int]:
        answers: list[int] = [0] * 5
        with anyio.fail_after(60):
            async with serve_worker(adder) as worker:
                await worker.wait_ready()
                asking = Emitter.from_config(web.config, answers=f"{name}.answers")
                async with asking as emitter, anyio.create_task_group() as group:

                    async def request(number: int) -> None:
                        answers[number] = await emitter.request(f"{name}.sums", [number, 1], timeout_s=60)

                    for number in range(5):
                        group.start_soon(request, number)
        return answers

    assert anyio.run(ask, backend=backend) == [1, 2, 3, 4, 5]
