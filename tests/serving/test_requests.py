"""A request and its answer: an emitter and a worker that know each other by channels only."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio import to_thread

from hexa_worker import (
    BrokerUnavailable,
    ConfigError,
    DecodeError,
    Embedded,
    Emitter,
    SyncEmitter,
    Unanswered,
    serve_worker,
)
from hexa_worker.drivers.memory import MemoryDriver, MemoryStore
from hexa_worker.testing import VirtualTime
from hexa_worker.testing.virtual import Backend

pytestmark = pytest.mark.anyio
LIMIT_S = 60.0
HANDLERS = """
from hexa_worker import subscribe

@subscribe("sums", action="add")
async def add(numbers: list[int]) -> dict[str, int]:
    return {"sum": sum(numbers)}

"""


class Sum(msgspec.Struct):
    """An answer."""

    sum: int


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["plain", "hexa", "cloudevents"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def project(tmp_path: Path, wire: str) -> Iterator[Path]:
    broker = f'broker = {{ driver = "embedded", path = "hexa.db", wire = "{wire}" }}\n'
    (tmp_path / "worker.toml").write_text(f'worker = {{ name = "adder", handlers = ["adding"] }}\n{broker}')
    (tmp_path / "adding.py").write_text(HANDLERS)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("adding", None)


@asynccontextmanager
async def asking(folder: Path, wire: str = "plain") -> AsyncIterator[Emitter]:
    broker = Embedded(path=str(folder / "hexa.db"), wire=wire)  # type: ignore[arg-type]  # one of the three
    with anyio.fail_after(LIMIT_S):
        async with (
            serve_worker(folder / "worker.toml"),
            Emitter.connect(broker, name="web", answers="web.1") as emitter,
        ):
            yield emitter


async def test_many_at_once_get_each_its_own_answer(project: Path, wire: str) -> None:
    answers: dict[int, Any] = {}
    async with asking(project, wire) as emitter, anyio.create_task_group() as group:

        async def ask(number: int) -> None:
            answers[number] = await emitter.request("sums", [number, 1], timeout_s=LIMIT_S)

        for number in range(20):
            group.start_soon(ask, number)
    assert answers == {number: {"sum": number + 1} for number in range(20)}


@pytest.mark.parametrize("wire", ["plain"])
async def test_an_answer_is_decoded_to_the_type_that_is_asked_for(project: Path) -> None:
    async with asking(project) as emitter:
        assert await emitter.request("sums", [1], timeout_s=LIMIT_S, returns=Sum) == Sum(1)
        with pytest.raises(DecodeError, match="the answer is not what was asked for"):
            await emitter.request("sums", [1], timeout_s=LIMIT_S, returns=int)


@pytest.mark.parametrize("wire", ["plain"])
async def test_threads_ask_too(project: Path) -> None:
    def ask() -> Any:
        with SyncEmitter.connect(Embedded(path=str(project / "hexa.db")), answers="web.2") as emitter:
            return emitter.request("sums", [2, 3], timeout_s=LIMIT_S)

    with anyio.fail_after(LIMIT_S):
        async with serve_worker(project / "worker.toml"):
            assert await to_thread.run_sync(ask) == {"sum": 5}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_request_that_nobody_answers_says_so_in_its_time(backend: Backend) -> None:
    time = VirtualTime()

    async def main() -> None:
        async with Emitter(MemoryDriver(MemoryStore(time)), time, answers="web.1") as emitter:
            with pytest.raises(Unanswered, match="event mine to quiet was not answered within 5 s"):
                await emitter.request("quiet", 1, id="mine", timeout_s=5)

    time.run(main, backend=backend)
    assert 5 <= time.monotonic() < 6


async def test_an_emitter_that_closes_tells_who_still_waits() -> None:
    errors: list[Exception] = []

    async def ask(emitter: Emitter) -> None:
        try:
            await emitter.request("sums", [1], timeout_s=LIMIT_S)
        except BrokerUnavailable as error:
            errors.append(error)

    store = MemoryStore()
    async with anyio.create_task_group() as group, Emitter(MemoryDriver(store), answers="web.1") as emitter:
        group.start_soon(ask, emitter)
        while emitter._answers is not None and not emitter._answers._questions:
            await anyio.sleep(0.001)
    assert [str(error) for error in errors] == ["the emitter was closed before an answer came"]


async def test_without_a_channel_for_answers_a_request_is_told_what_it_needs() -> None:
    async with Emitter(MemoryDriver(MemoryStore())) as emitter:
        with pytest.raises(ConfigError, match=r"request needs a channel for answers \(give the emitter a channel"):
            await emitter.request("sums", [1], timeout_s=1)
