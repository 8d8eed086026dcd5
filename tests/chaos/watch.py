"""Follows the ledger while it is written: which subscription consumed last, and when."""

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from hexa_worker.testing.ledger import LedgerEntry

_START = b'"handle_start"'


class Watch:
    """See the module.

    Args:
        folder: the ledger's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._decode = msgspec.json.Decoder(LedgerEntry).decode
        self._starts: dict[str, list[float]] = {}

    def wait_consuming(self, actions: Iterable[str], since: float, within_s: float) -> float | None:
        """Wait until each action has started something after `since`.

        Returns:
            How long after `since` the last of them did; None: not within `within_s` of it.
        """
        wanted = list(actions)
        while True:
            self._look()
            firsts = [next((at for at in self._starts.get(action, ()) if at > since), None) for action in wanted]
            found = [at for at in firsts if at is not None]
            if len(found) == len(wanted):
                self._starts.clear()
                return max(found) - since
            if time.monotonic() > since + within_s:
                return None
            time.sleep(0.1)

    def _look(self) -> None:
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                *lines, torn = file.read().split(b"\n")
                self._read[path] = file.tell() - len(torn)
            for line in lines:
                if _START in line:
                    entry = self._decode(line)
                    self._starts.setdefault(entry.action, []).append(entry.at)
