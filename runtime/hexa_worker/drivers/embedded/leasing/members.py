"""Who holds leases, and whether it still lives.

Every open driver is an owner: a row with the time until which its leases hold, and a lock on one byte of a side
file. The kernel drops the lock when the process dies, so the others know at once; a process that lives and does
not move loses its leases when its time is over. Times are CLOCK_MONOTONIC, which all processes of a machine
share: neither a jump of the wall clock nor a night asleep expires anything. After a reboot no lock is held, and
the boot id says so where locks do not work.
"""

import fcntl
import os
import secrets
import sqlite3
import struct
import time
from pathlib import Path

from hexa_worker.drivers.embedded.leasing.leases import free_delayed
from hexa_worker.drivers.embedded.storage.schema import NOBODY

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now_ms() -> int:
    """Milliseconds that every process of this machine counts alike."""
    return time.monotonic_ns() // 1_000_000


def boot_id() -> str:
    """Names this boot of the machine."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


class LockFile:
    """The side file whose bytes owners lock.

    Open file description locks: two drivers in one process do not share them, and closing
    some other descriptor does not drop them.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def lock(self, owner: int) -> bool:
        """Hold the byte of `owner` as long as this process lives; False where such locks do not work.

        Raises:
            BlockingIOError: somebody else holds it.
        """
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _byte(owner))
        except PermissionError as error:  # some systems' word for it
            raise BlockingIOError(*error.args) from error
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True

    def is_dead(self, owner: int) -> bool:
        """Nobody holds the byte of `owner`. False where that is not certain."""
        try:
            answer = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, _byte(owner))
        except OSError:
            return False
        kind: int = struct.unpack(_FLOCK, answer)[0]
        return kind == fcntl.F_UNLCK

    def close(self) -> None:
        os.close(self._descriptor)


def _byte(owner: int) -> bytes:
    return struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, owner, 1, 0)


class Members:
    """This process among the others.

    Args:
        path: the lock file.
        lease_s: how long leases hold without a heartbeat.
    """

    def __init__(self, path: Path, lease_s: float) -> None:
        self._locks = LockFile(path)
        self._lease_ms = round(lease_s * 1000)
        self._boot = boot_id()
        self._locked = True
        self._suspects: dict[int, int] = {}
        self.id = NOBODY
        self.peers = 1
        self.is_first = True

    def register(self, connection: sqlite3.Connection) -> None:
        """Become an owner. Inside a write transaction."""
        number: int | None = None
        while True:
            cursor = connection.execute(
                "INSERT INTO owners (id, boot, pid, expires_ms) VALUES (?, ?, ?, ?)",
                (number, self._boot, os.getpid(), now_ms() + self._lease_ms),
            )
            self.id = cursor.lastrowid or NOBODY
            try:
                self._locked = self._locks.lock(self.id)
            except BlockingIOError:  # an owner of the file that was here before; when it lets go, we would seem dead
                connection.execute("DELETE FROM owners WHERE id = ?", (self.id,))
                number = secrets.randbelow(1 << 40) + 1
            else:
                return

    def beat(self, connection: sqlite3.Connection, alive_ms: int) -> bool:
        """Let all leases hold for another `lease_s` from `alive_ms`; False when others have taken them over."""
        cursor = connection.execute(
            "UPDATE owners SET expires_ms = ? WHERE id = ?", (alive_ms + self._lease_ms, self.id)
        )
        return cursor.rowcount == 1

    def exists(self, connection: sqlite3.Connection) -> bool:
        """Others have not removed it."""
        return connection.execute("SELECT 1 FROM owners WHERE id = ?", (self.id,)).fetchone() is not None

    def dead(self, connection: sqlite3.Connection) -> list[int]:
        """The owners that are dead or frozen. Reads only; also counts the living.

        A frozen one is named when it is seen twice: if the whole machine stood still, each process first gets
        its chance to say that it lives.
        """
        found: list[int] = []
        suspects: dict[int, int] = {}
        living = 1
        lowest = self.id
        now = now_ms()
        for id_, boot, expires_ms in connection.execute("SELECT id, boot, expires_ms FROM owners").fetchall():
            if id_ == self.id:
                continue
            late = expires_ms < now
            if self._is_dead(id_, boot) or (late and self._suspects.get(id_) == expires_ms):
                found.append(id_)
            else:
                if late:
                    suspects[id_] = expires_ms
                living += 1
                lowest = min(lowest, id_)
        self._suspects = suspects
        self.peers, self.is_first = living, lowest == self.id
        return found

    def _is_dead(self, owner: int, boot: str) -> bool:
        return boot != self._boot or (self._locked and self._locks.is_dead(owner))

    def close(self) -> None:
        self._locks.close()


def remove(connection: sqlite3.Connection, owner: int) -> None:
    """Forget an owner; what it held is free to take. Inside a write transaction."""
    delayed = connection.execute("SELECT id FROM leases WHERE owner = ? AND channel = 0", (owner,)).fetchall()
    for (lease,) in delayed:
        free_delayed(connection, lease, owner)
    connection.execute("UPDATE leases SET owner = ? WHERE owner = ?", (NOBODY, owner))
    connection.execute("DELETE FROM owners WHERE id = ?", (owner,))
