import inspect
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from hexa_worker import ConfigError, DriverUnavailable, Emitter, Event, SyncEmitter
from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Delivery
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.emitting.threaded import _Loop
from hexa_worker.testing import Harness
from tests.emitting.stage import Gated

CONFIG = '[worker]\nname = "web"\nhandlers = ["none"]\n[broker]\ndriver = "embedded"\npath = "hexa.db"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "worker.toml"
    path.write_text(CONFIG)
    return path


def stored(config: Path) -> list[Delivery]:
    async def browse() -> list[Delivery]:
        driver = EmbeddedDriver(config.parent / "hexa.db", Embedded())
        await driver.open()
        try:
            return list(await driver.browse("c", -1, 10_000))
        finally:
            await driver.close()

    return anyio.run(browse)


def test_many_threads_emit_and_every_event_is_confirmed(config: Path) -> None:
    with SyncEmitter.from_config(config) as emitter, ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda number: emitter.emit("c", number, correlation_id=f"r{number}"), range(200)))
    assert len(set(ids)) == 200
    assert sorted(int(one.payload) for one in stored(config)) == list(range(200))


def test_what_was_submitted_is_stored_when_the_program_ends(config: Path) -> None:
    program = (
        "import sys\n"
        "from hexa_worker import Event, SyncEmitter\n"
        "emitter = SyncEmitter.from_config(sys.argv[1])\n"
        "for number in range(500):\n"
        "    emitter.submit(Event(channel='c', payload=number))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(config)], check=True, capture_output=True, timeout=30)
    assert done.stderr == b""
    assert [int(one.payload) for one in stored(config)] == list(range(500))


def test_a_forked_process_connects_anew(config: Path) -> None:
    program = (
        "import os, sys\n"
        "from hexa_worker import SyncEmitter\n"
        "emitter = SyncEmitter.from_config(sys.argv[1])\n"
        "emitter.emit('c', 'before')\n"
        "child = os.fork()\n"
        "emitter.emit('c', 'child' if child == 0 else 'parent')\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", program, str(config)], check=True, timeout=30)
    assert sorted(one.payload for one in stored(config)) == [b"before", b"child", b"parent"]


def test_a_process_that_only_emits_imports_no_actor(config: Path) -> None:
    program = (
        "import sys\n"
        "from hexa_worker import SyncEmitter\n"
        "with SyncEmitter.from_config(sys.argv[1]) as emitter:\n"
        "    emitter.emit('c', 1)\n"
        "print(*sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(config)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    imported = done.stdout.split()
    assert "hexa_worker.drivers.opening" in imported
    assert [name for name in imported if name.startswith(("hexa_worker.actors", "hexa_worker.app"))] == []


def test_a_program_that_was_interrupted_while_it_connected_ends(config: Path) -> None:
    stored(config)  # makes the file
    program = (
        "import sys\n"
        "from hexa_worker import SyncEmitter\n"
        "emitter = SyncEmitter.from_config(sys.argv[1])\n"
        "print('connecting', flush=True)\n"
        "try:\n"
        "    emitter.emit('c', 1)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    with closing(sqlite3.connect(config.parent / "hexa.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        command = [sys.executable, "-c", program, str(config)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "connecting\n"
            time.sleep(1.0)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            other.execute("ROLLBACK")
            try:
                assert process.wait(30) == 0
            finally:
                process.kill()


def test_nothing_is_read_or_connected_before_the_first_event(tmp_path: Path) -> None:
    emitter = SyncEmitter.from_config(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="no such file"):
        emitter.emit("c")
    (tmp_path / "missing.toml").write_text(CONFIG)
    assert emitter.emit("c", id="mine") == "mine"
    emitter.close()


def test_a_closed_emitter_emits_no_more(config: Path) -> None:
    emitter = SyncEmitter.from_config(config)
    assert [len(str(one)) > 0 for one in emitter.emit_many([Event(channel="c")] * 3)] == [True] * 3
    emitter.close()
    emitter.close()
    with pytest.raises(ConfigError, match="closed"):
        emitter.emit("c")


def test_an_error_reaches_the_thread_that_emitted() -> None:
    driver = Gated()
    driver.error = DriverUnavailable("away")
    with SyncEmitter(lambda: Emitter(driver)) as emitter:
        with pytest.raises(DriverUnavailable, match="away"):
            emitter.emit("c")
        with pytest.raises(ConfigError):
            emitter.emit("")


def test_submitting_blocks_when_too_many_wait() -> None:
    driver = Gated()
    with SyncEmitter(lambda: Emitter(driver), max_pending=2) as emitter:
        futures = [emitter.submit(Event(channel="c")) for _ in range(50)]
        assert len({future.result(10) for future in futures}) == 50
    assert max(len(batch) for batch in driver.batches) <= 2


def test_a_thread_emits_an_event_for_later_that_enters_its_channel_when_it_is_due(config: Path) -> None:
    at = datetime.now(UTC) + timedelta(seconds=0.3)
    with SyncEmitter.from_config(config) as emitter:
        emitter.emit("c", 1, at=at)
        emitter.emit("c", 2, after=timedelta(hours=1))
    assert stored(config) == []
    deadline = time.monotonic() + 20
    while not (found := stored(config)):  # whoever has the file open moves it
        assert time.monotonic() < deadline
    assert datetime.now(UTC) >= at
    assert [one.payload for one in found] == [b"1"]


def test_an_emitter_without_a_worker_toml_stores_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    emitter = SyncEmitter.connect(Embedded(path="hexa.db"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    with emitter:
        emitter.emit("c", 1)
    assert [int(one.payload) for one in stored(tmp_path / "worker.toml")] == [1]


def test_an_emit_that_finds_no_room_in_its_time_is_never_sent() -> None:
    driver = Gated()
    driver.shut()
    with SyncEmitter(lambda: Emitter(driver), max_pending=1) as emitter:
        first = emitter.submit(Event("c", 1))
        with pytest.raises(DriverUnavailable, match=r"not sent within 0\.01 s; it was not stored"):
            emitter.emit("c", 2, timeout_s=0.01)
        assert isinstance(emitter._loop, _Loop)
        emitter._loop._portal.call(driver.gate.set)
        first.result()
        emitter.emit("c", 3, timeout_s=60)
    assert [int(message.payload) for batch in driver.batches for message in batch] == [1, 3]


def test_an_emit_that_is_not_confirmed_in_its_time_says_so() -> None:
    driver = Gated()
    driver.shut()
    with SyncEmitter(lambda: Emitter(driver)) as emitter:
        with pytest.raises(DriverUnavailable, match=r"not (confirmed|sent) within"):
            emitter.emit("c", 1, timeout_s=0.05)
        assert isinstance(emitter._loop, _Loop)
        emitter._loop._portal.call(driver.gate.set)


def test_all_ways_to_emit_take_the_same_parameters() -> None:
    wanted = set(Event.__struct_fields__) | {"self", "parent", "timeout_s"}
    for emit in (Emitter.emit, SyncEmitter.emit, Harness.emit):
        assert set(inspect.signature(emit).parameters) - {"event_id"} == wanted, emit.__qualname__
