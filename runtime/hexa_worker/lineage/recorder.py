"""Writes lineage beside the worker: gathers in memory; packs and stores in a thread of its own.

The worker never waits for the file. Whatever goes wrong with it is logged once and counted, and what cannot be kept
in the meantime is forgotten.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from hexa_worker.clock import Clock
from hexa_worker.core.settlement import Settlement
from hexa_worker.lineage.base import Store, StoreError
from hexa_worker.lineage.entries import Entry
from hexa_worker.lineage.packs import Gathering

FLUSH_S = 0.2
FLUSH_COUNT = 10_000
GATHER_LIMIT = 100_000
"""What is gathered while a write takes too long; beyond it things are forgotten."""
WAITING_PACKS = 20
"""Packs kept in memory while the file cannot be written; older ones are forgotten."""
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

    def __init__(self, open_store: Callable[[], Store], clock: Clock, *, keep_days: float = 7.0) -> None:
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
        self._store: Store | None = None
        self._complained = False
        self._reopen_at = 0.0
        self._expire_at = clock.monotonic() + EXPIRE_EVERY_S
        self._thread = threading.Thread(target=self._run, name="lineage", daemon=True)
        self._thread.start()

    def record(self, action: str, settlements: Sequence[Settlement], now_ms: int) -> None:
        """Remember settlements of `action` that took effect at `now_ms`. Never waits for the file."""
        with self._lock:
            gathering = self._gathering
            if gathering.count >= GATHER_LIMIT:
                self.forgotten += len(settlements)
                return
            gathering.add(action, settlements, now_ms)
        self._told(gathering)

    def put(self, entry: Entry) -> None:
        """Remember one thing. Never waits for the file."""
        with self._lock:
            gathering = self._gathering
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
            self._work.wait()
            self._hurry.wait(FLUSH_S)
            self._hurry.clear()
            self._work.clear()
            self._flush()
        self._flush()
        if self._store is not None:
            self._store.close()

    def _flush(self) -> None:
        with self._lock:
            gathering, self._gathering = self._gathering, Gathering()
        if gathering.count:
            self._waiting.append((gathering.pack(), self._clock.now_ms(), gathering.count))
        try:
            self._store_waiting()
        except StoreError as error:
            self._complain(error)

    def _store_waiting(self) -> None:
        store = self._opened()
        while store is not None and self._waiting:
            blob, at_ms, _ = self._waiting[0]
            store.append(blob, at_ms)
            self._waiting.popleft()
        while len(self._waiting) > WAITING_PACKS:
            self.forgotten += self._waiting.popleft()[2]
        if store is not None:
            self._expire(store)

    def _opened(self) -> Store | None:
        """The store; None while it is not worth trying again."""
        if self._store is None and (self._closing or self._clock.monotonic() >= self._reopen_at):
            self._reopen_at = self._clock.monotonic() + REOPEN_S
            self._store = self._open_store()
        return self._store

    def _expire(self, store: Store) -> None:
        if self._clock.monotonic() < self._expire_at or self._closing:
            return
        if not store.expire(self._clock.now_ms() - self._keep_ms):
            self._expire_at = self._clock.monotonic() + EXPIRE_EVERY_S

    def _complain(self, error: StoreError) -> None:
        """Say it once; go on without the file for a while."""
        while len(self._waiting) > WAITING_PACKS:
            self.forgotten += self._waiting.popleft()[2]
        if not self._complained:
            self._complained = True
            log.warning("lineage is not kept, trace will not show everything: %s", error)
        if self._store is not None:
            self._store.close()
            self._store = None
