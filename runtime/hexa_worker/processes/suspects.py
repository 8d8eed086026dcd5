"""The suspects: deliveries that were in hand when a process died. The parent writes, every child reads.

Two files: the suspects themselves, replaced as a whole, and a mapped counter beside them that moves after each
change, so that a child learns with one memory comparison that nothing has changed.
"""

import logging
import os
import struct
import time
from collections.abc import Callable, Iterable
from mmap import mmap
from pathlib import Path
from typing import Final

import msgspec

from hexa_worker.core.crash_attribution import MAX_AGE_S, InFlightId, Suspicion, blame, count_crash
from hexa_worker.processes.journal import Remains
from hexa_worker.processes.private import open_private, write_private

log = logging.getLogger("hexa_worker.processes")
_VERSION = struct.Struct("<Q")
_VERSION_SIZE: Final = 8
_NAME: Final = "suspects"
_VERSION_NAME: Final = "suspects.version"
_Stored = list[tuple[InFlightId, Suspicion]]


def _read(folder: Path) -> dict[InFlightId, Suspicion]:
    """What the file says; a missing or damaged file says nothing."""
    try:
        stored = msgspec.msgpack.decode((folder / _NAME).read_bytes(), type=_Stored)
    except (OSError, msgspec.MsgspecError, ValueError):
        return {}
    return dict(stored)


class CrashCounter:
    """The parent's side.

    Args:
        folder: where the files are; it exists and belongs to this parent alone.
        now_s: wall clock, seconds since the epoch.

    Raises:
        OSError: the files cannot be written.
    """

    def __init__(self, folder: Path, now_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now_s = now_s
        now = now_s()
        self.suspicions = {hand: one for hand, one in _read(folder).items() if now - one.at_s < MAX_AGE_S}
        file = open_private(folder / _VERSION_NAME, os.O_RDWR)
        try:
            os.ftruncate(file, _VERSION_SIZE)
            self._version = mmap(file, _VERSION_SIZE)
        finally:
            os.close(file)

    def record(self, remains: Remains, why: str = "") -> dict[InFlightId, int]:
        """Count a crash, of `why`.

        Returns:
            Whom it is blamed on, with their crashes so far; empty when nothing was in hand.
        """
        if remains.clean or not remains.in_flight:
            return {}
        blamed = blame(remains.in_flight, remains.accused, self.suspicions)
        self.suspicions = count_crash(self.suspicions, blamed, self._now_s(), why)
        self._write()
        return {hand: self.suspicions[hand].crashes for hand in sorted(blamed)}

    def forget(self, hands: Iterable[InFlightId]) -> None:
        """These were settled: whatever they did, they will not come again."""
        found = [hand for hand in hands if self.suspicions.pop(hand, None) is not None]
        if found:
            self._write()

    def _write(self) -> None:
        """Tell the children; without room for a file they hear of it with the next change."""
        try:
            self._replace()
        except OSError as error:
            log.error("what died with a process cannot be noted: %s", error)  # noqa: TRY400 - it says all there is

    def _replace(self) -> None:
        path, new = self._folder / _NAME, self._folder / f"{_NAME}.new"
        with write_private(new) as out:
            out.write(msgspec.msgpack.encode(list(self.suspicions.items())))
        new.replace(path)
        (version,) = _VERSION.unpack_from(self._version, 0)
        _VERSION.pack_into(self._version, 0, (version + 1) & 0xFFFF_FFFF_FFFF_FFFF)


class SuspectsFile:
    """A child's side.

    Args:
        folder: as for `CrashCounter`, which was made before.
        settled: told of suspects that were settled, so that the parent forgets them.

    Raises:
        OSError: the parent has made no files there.
    """

    def __init__(self, folder: Path, settled: Callable[[list[InFlightId]], None]) -> None:
        self._folder = folder
        self._settled = settled
        file = os.open(folder / _VERSION_NAME, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._version = mmap(file, _VERSION_SIZE)
        finally:
            os.close(file)
        self._seen = b""
        self._suspicions: dict[InFlightId, Suspicion] = {}

    def any(self) -> bool:
        """Whether there are any; asked per batch."""
        version = self._version[:]
        if version != self._seen:
            self._suspicions = _read(self._folder)
            self._seen = version
        return bool(self._suspicions)

    def crashes(self, action: str, source: str, offset: int) -> int:
        """How many processes died with this delivery in hand, as of the last call of `any`."""
        one = self._suspicions.get(InFlightId(action, source, offset))
        return 0 if one is None else one.crashes

    def why(self, action: str, source: str, offset: int) -> str:
        """Of what the last of them died, as of the last call of `any`."""
        one = self._suspicions.get(InFlightId(action, source, offset))
        return "" if one is None else one.why

    def settled(self, action: str, places: Iterable[tuple[str, int]]) -> None:
        """Deliveries (source and offset) were acknowledged, retried or dead-lettered.

        Those of them that are suspects are forgotten: their place in the broker is history, and a channel that is
        made anew must not inherit its suspects.
        """
        found = [hand for place in places if (hand := InFlightId(action, *place)) in self._suspicions]
        for hand in found:
            del self._suspicions[hand]
        if found:
            self._settled(found)
