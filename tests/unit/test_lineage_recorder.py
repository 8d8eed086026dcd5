"""The recorder and a store that is away: bounded, counted, told; never in the worker's way."""

import logging
import threading
from collections.abc import Iterator

import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.core.lineage import EVENT_ID
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Acked
from hexa_worker.lineage import recorder as recording
from hexa_worker.lineage.base import StoreError
from hexa_worker.lineage.entries import LineageEntry
from hexa_worker.lineage.packs import unpack
from hexa_worker.lineage.recorder import Recorder

LIMIT_S = 30.0


class Shelf:
    """A store that is away when a test says so."""

    def __init__(self) -> None:
        self.away = threading.Event()
        self.kept: list[str] = []
        self.tried = threading.Semaphore(0)
        self.stored = threading.Semaphore(0)

    def open(self) -> "Shelf":
        if self.away.is_set():
            self.tried.release()
            raise StoreError("away")
        return self

    def append(self, blob: bytes, _at_ms: int) -> None:
        if self.away.is_set():
            self.tried.release()
            raise StoreError("away")
        self.kept += [entry.event_id for entry in unpack(blob)]
        self.stored.release()

    def expire(self, _before_ms: int) -> int:
        return 0

    def mentioning(self, _text: str, _since_ms: int) -> Iterator[LineageEntry]:
        return iter(())

    def close(self) -> None:
        """Nothing to let go of."""


def record(recorder: Recorder, event_id: str) -> None:
    headers = ((EVENT_ID, event_id.encode()),)
    one = Delivery(channel="work", payload=b"", headers=headers, source="work", offset=1)
    recorder.record("do", [Acked(one)], 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "REOPEN_S", 0.01)
    monkeypatch.setattr(recording, "FLUSH_S", 0.001)


def test_what_exceeds_the_memory_is_forgotten_oldest_first_counted_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "WAITING_BYTES", 500)
    shelf = Shelf()
    shelf.away.set()
    recorder = Recorder(shelf.open, SystemClock())
    for number in range(50):
        record(recorder, f"e-{number:03}")
        assert shelf.tried.acquire(timeout=LIMIT_S)  # a pack of its own for each
    shelf.away.clear()
    assert shelf.stored.acquire(timeout=LIMIT_S)
    recorder.close()
    assert shelf.kept == [f"e-{number:03}" for number in range(50 - len(shelf.kept), 50)]
    assert recorder.forgotten == 50 - len(shelf.kept) > 0
    said = [entry.getMessage() for entry in caplog.records]
    assert [text.partition(",")[0] for text in said] == ["lineage is not kept", "lineage is kept again"]
    assert f"{recorder.forgotten} things" in said[1]


def test_what_waits_at_the_end_is_stored_if_it_can_be_and_told_if_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hexa_worker.lineage")
    shelf = Shelf()
    shelf.away.set()
    recorder = Recorder(shelf.open, SystemClock())
    record(recorder, "e")
    recorder.close()
    assert (shelf.kept, recorder.forgotten) == ([], 1)
    assert "1 things that happened are missing" in caplog.text


def test_while_a_write_takes_too_long_only_so_much_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "GATHER_LIMIT", 10)
    opened, go_on = threading.Event(), threading.Event()
    shelf = Shelf()

    def slow() -> Shelf:
        opened.set()
        assert go_on.wait(LIMIT_S)
        return shelf

    recorder = Recorder(slow, SystemClock())
    record(recorder, "first")
    assert opened.wait(LIMIT_S)
    for number in range(30):
        record(recorder, f"e-{number}")
    assert recorder.forgotten == 20
    go_on.set()
    recorder.close()
    assert shelf.kept == ["first", *(f"e-{number}" for number in range(10))]


def test_a_text_that_nobody_could_write_down_does_not_end_the_recording(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    recorder = Recorder(shelf.open, SystemClock())
    unreadable = Delivery(channel="work", payload=b"", source="work", offset=1)
    recorder.record("do", [Acked(unreadable, dropped="no such file: \udcff")], 1)
    assert shelf.stored.acquire(timeout=LIMIT_S)
    record(recorder, "event-2")
    recorder.close()
    assert shelf.kept == ["work-1", "event-2"]
    assert not caplog.records


def test_a_store_that_fails_in_its_own_way_is_away_and_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    failures = [OverflowError("too much")]

    def opened() -> Shelf:
        if failures:
            shelf.tried.release()
            raise failures.pop()
        return shelf

    recorder = Recorder(opened, SystemClock())
    record(recorder, "event-1")
    assert shelf.tried.acquire(timeout=LIMIT_S)
    assert shelf.stored.acquire(timeout=LIMIT_S)
    recorder.close()
    assert shelf.kept == ["event-1"]
    assert "OverflowError: too much" in caplog.records[0].message
