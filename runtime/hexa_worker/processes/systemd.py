"""What a parent tells systemd (``Type=notify``): that it is ready, how it stands, that it turns. See sd_notify(3)."""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Final

from hexa_worker.core.scrubbing import scrub
from hexa_worker.processes.status.overview import Overview

STATUS_LENGTH: Final = 500
TELL_S: Final = 1.0
"""How long what it says of itself may be old."""


class Systemd:
    """The socket that systemd listens on. No method raises: a worker does not end because nobody listens.

    Args:
        address: where it listens; ``@`` begins an abstract one.
        watchdog_s: it wants to hear within so long, each time; None: it does not mind.
        clock: in seconds, monotonic.
    """

    def __init__(self, address: str, watchdog_s: float | None, clock: Callable[[], float] = monotonic) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._every_s = min(TELL_S, watchdog_s / 2) if watchdog_s else TELL_S
        self._watched = watchdog_s is not None
        self._clock = clock
        self._next = 0.0
        self._ready = self._stopping = False
        self._said = ""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Systemd | None":
        """As the environment says."""
        address, watchdog_us = environ.get("NOTIFY_SOCKET", ""), environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if not address.startswith(("/", "@")):
            return None
        return cls(address, int(watchdog_us) / 1e6 if watchdog_us.isdecimal() and meant else None)

    def tell(self, look: Callable[[], Overview], timeout_s: float | None, *, stopping: bool) -> float:
        """Say what has changed, when it is time or it stops; returns how long to wait at most, `timeout_s` or less."""
        now = self._clock()
        if now >= self._next or stopping is not self._stopping:
            self._stopping = stopping
            self._next = now + self._every_s
            self._send(look())
        rest = max(self._next - now, 0.0)
        return rest if timeout_s is None else min(rest, timeout_s)

    def _send(self, view: Overview) -> None:
        lines = ["WATCHDOG=1"] if self._watched else []
        if view.stopping:
            lines.append("STOPPING=1")
        elif view.ready and not self._ready:
            lines.append("READY=1")
        text = _told(view)[:STATUS_LENGTH]
        if text != self._said:
            lines.append(f"STATUS={text}")
        if lines:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sending:
                sending.sendto("\n".join(lines).encode(errors="replace"), self._address)
                self._ready, self._said = self._ready or "READY=1" in lines, text  # or it is said again


def _told(view: Overview) -> str:
    """One line for ``systemctl status``."""
    ready = sum(one.ready for one in view.processes)
    text = f"{'draining, ' if view.stopping else ''}{ready} of {len(view.processes)} processes ready"
    waiting = {one.action: one.error for each in view.processes for one in each.report.subscriptions if one.error}
    if waiting and not view.stopping:
        action, error = min(waiting.items())
        text += f"; {action}: {' '.join(scrub(error).split())}"
    return text
