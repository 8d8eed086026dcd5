"""Writes lineage beside the worker: gathers in memory; packs and stores in a thread of its own.

The worker never waits for the store. While it is away, which is logged once, what happens waits in memory; what exceeds
that is forgotten, oldest first, counted, and told when the store is back.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from hexa_worker.clock import Clock
from hexa_worker.core.settlement import Settlement
from hexa_worker.lineage.base import LineageStore, StoreError
from hexa_worker.lineage.entries import LineageEntry
from hexa_worker.lineage.packs import Gathering

FLUSH_S = 0.2
FLUSH_COUNT = 10_000
GATHER_LIMIT = 100_000
"""What is gathered while a write takes too long; beyond it things are forgotten."""
WAITING_BYTES = 32 * 1024 * 1024
"""Packs kept in memory while the store is away; older ones are forgotten."""
REOPEN_S = 10.0
EXPIRE_EVERY_S = 60.0
CLOSE_S = 5.0
_DAY_MS = 86_400_000

log = logging.getLogger("hexa_worker.lineage")


class Recorder:
    """Remembers what became of deliveries.

    Args:
        open_store: opens the store, in the recorder's thread; raises `StoreError`.
        clock: tells what is too old.
        keep_days: how long things are remembered.

    Ownership: it has a thread; `close` ends it.
    """

    def __init__(self, open_store: Callable[[], LineageStore], clock: Clock, *, keep_days: float = 7.0) -> None:
        self.forgotten = 0
        self._open_store = open_store
        self._clock = clock
        self._keep_ms = round(keep_days * _DAY_MS)
        self._lock = threading.Lock()  # held by the thread only for a swap
        self._gathering = Gathering()
        self._work = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._waiting: deque[tuple[bytes, int, int]] = deque()
        self._waiting_bytes = 0
        self._store: LineageStore | None = None
        self._complained = False
        self._told_forgotten = 0
        self._reopen_at = 0.0
        self._expire_at = clock.monotonic() + EXPIRE_EVERY_S
        self._thread = threading.Thread(target=self._run, name="lineage", daemon=True)
        self._thread.start()

    def record(self, action: str, settlements: Sequence[Settlement], now_ms: int) -> None:
        """Remember settlements of `action` that took effect at `now_ms`. Never waits for the store."""
        with self._lock:
            gathering = self._gathering
            if gathering.count >= GATHER_LIMIT:
                self.forgotten += len(settlements)
                return
            gathering.add(action, settlements, now_ms)
        self._told(gathering)

    def put(self, entry: LineageEntry) -> None:
        """Remember one thing. Never waits for the store."""
        with self._lock:
            gathering = self._gathering
            if gathering.count >= GATHER_LIMIT:
                self.forgotten += 1
                return
            gathering.put(entry)
        self._told(gathering)

    def close(self) -> None:
        """Store what is gathered, within a few seconds, and end. Idempotent."""
        self._closing = True
        self._work.set()
        self._hurry.set()
        self._thread.join(CLOSE_S)

    def _told(self, gathering: Gathering) -> None:
        if gathering.count >= FLUSH_COUNT:
            self._hurry.set()
        if not self._work.is_set():
            self._work.set()

    def _run(self) -> None:
        while not self._closing:
            self._work.wait(REOPEN_S if self._waiting else None)
            self._hurry.wait(FLUSH_S)
            self._hurry.clear()
            self._work.clear()
            self._flush()
        self._flush()
        self._give_up()
        if self._store is not None:
            self._store.close()

    def _flush(self) -> None:
        with self._lock:
            gathering, self._gathering = self._gathering, Gathering()
        try:
            if gathering.count:
                self._keep(gathering)
            self._store_waiting()
        except StoreError as error:
            self._complain(error)
        except Exception as error:  # noqa: BLE001 - a defect of the store or its library must not end the thread
            self._complain(StoreError(f"{type(error).__qualname__}: {error}"))

    def _keep(self, gathering: Gathering) -> None:
        """Pack what was gathered, and forget the oldest of what is too much to wait."""
        blob = gathering.pack()
        self._waiting.append((blob, self._clock.now_ms(), gathering.count))
        self._waiting_bytes += len(blob)
        while self._waiting_bytes > WAITING_BYTES and len(self._waiting) > 1:
            self._forget()

    def _forget(self) -> None:
        blob, _, count = self._waiting.popleft()
        self._waiting_bytes -= len(blob)
        with self._lock:
            self.forgotten += count

    def _store_waiting(self) -> None:
        store = self._opened()
        if store is None:
            return
        while self._waiting:
            blob, at_ms, _ = self._waiting[0]
            store.append(blob, at_ms)
            self._waiting.popleft()
            self._waiting_bytes -= len(blob)
        self._tell_forgotten()
        self._expire(store)

    def _opened(self) -> LineageStore | None:
        """The store; None while it is not worth trying again."""
        if self._store is None and (self._closing or self._clock.monotonic() >= self._reopen_at):
            self._reopen_at = self._clock.monotonic() + REOPEN_S
            self._store = self._open_store()
        return self._store

    def _expire(self, store: LineageStore) -> None:
        if self._clock.monotonic() < self._expire_at or self._closing:
            return
        if not store.expire(self._clock.now_ms() - self._keep_ms):
            self._expire_at = self._clock.monotonic() + EXPIRE_EVERY_S

    def _complain(self, error: StoreError) -> None:
        """Say it once; go on without the store for a while."""
        if not self._complained:
            self._complained = True
            log.warning("lineage is not kept, trace will not show everything: %s", error)
        if self._store is not None:
            self._store.close()
            self._store = None

    def _tell_forgotten(self) -> None:
        """All that waited is stored: say that it is, and what is missing."""
        lost = self.forgotten - self._told_forgotten
        if self._complained or lost:
            self._complained = False
            self._told_forgotten += lost
            log.warning("lineage is kept again, %d things that happened meanwhile are missing", lost)

    def _give_up(self) -> None:
        """At the end: what was never stored is forgotten."""
        while self._waiting:
            self._forget()
        lost = self.forgotten - self._told_forgotten
        if lost:
            log.info("lineage was not kept to the end: %d things that happened are missing", lost)
