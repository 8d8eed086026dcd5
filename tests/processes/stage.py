"""A parent with stand-in children, seen from outside: what they say, what they log, how they end."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
LIMIT_S = 20.0


class Said(NamedTuple):
    """One line that a stand-in said."""

    slot: int
    pid: int
    text: str


class Stage:
    """One project, and the parent that runs it.

    Args:
        folder: of worker.toml.
        orders: what the stand-ins do, see `tests.processes.scripted_child`.
        worker: further lines of the table ``[worker]``, and tables after it.
    """

    def __init__(self, folder: Path, orders: Sequence[str] = (), worker: str = "") -> None:
        self.folder = folder
        self.said: list[Said] = []
        self.logs: list[str] = []
        self._lines = {"said": b"", "log": b""}
        self._parents: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        (folder / "worker.toml").write_text(f'[worker]\nname = "staged"\nhandlers = ["h"]\n{worker}\n')
        self.order(*orders)
        os.mkfifo(folder / "said")
        self._fifo = os.open(folder / "said", os.O_RDWR | os.O_NONBLOCK)
        self._selector.register(self._fifo, selectors.EVENT_READ, "said")

    def order(self, *orders: str) -> None:
        """What processes do that start from now on."""
        (self.folder / "orders").write_text("\n".join(orders))

    def start(self, *arguments: str, prefix: Sequence[str] = (), **options: Any) -> subprocess.Popen[bytes]:
        """Start a parent."""
        command = (
            *prefix,
            sys.executable,
            "-m",
            "tests.processes.launch",
            str(self.folder / "worker.toml"),
            *arguments,
        )
        return self._started(command, {"cwd": ROOT, **options})

    def start_in(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start a parent as a shell in `folder` does, a link perhaps."""
        command = (sys.executable, "-m", "tests.processes.launch", "worker.toml")
        return self._started(
            command, {"cwd": folder, "env": {**os.environ, "PWD": str(folder), "PYTHONPATH": str(ROOT)}}
        )

    def _started(self, command: Sequence[str], options: Any) -> subprocess.Popen[bytes]:
        parent = subprocess.Popen(command, stderr=subprocess.PIPE, **options)
        assert parent.stderr is not None
        os.set_blocking(parent.stderr.fileno(), False)
        self._selector.register(parent.stderr, selectors.EVENT_READ, "log")
        self._parents.append(parent)
        return parent

    @property
    def parent(self) -> subprocess.Popen[bytes]:
        """The latest parent."""
        return self._parents[-1]

    def close(self) -> None:
        """End everything."""
        for parent in self._parents:
            parent.kill()
            parent.wait()
            assert parent.stderr is not None
            parent.stderr.close()
        self._selector.close()
        os.close(self._fifo)

    # -- waiting

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait for something that follows from what is said or logged."""
        end = time.monotonic() + LIMIT_S
        while not condition():
            left = end - time.monotonic()
            assert left > 0, f"waited in vain for {what}\nsaid: {self.said}\nlog:\n" + "\n".join(self.logs)
            for key, _ in self._selector.select(left):
                self._read(key.fd, key.data)

    def _read(self, descriptor: int, name: str) -> None:
        data = os.read(descriptor, 65536)
        if not data:
            self._selector.unregister(descriptor)
        *lines, self._lines[name] = (self._lines[name] + data).split(b"\n")
        for line in lines:
            text = line.decode()
            if name == "log":
                self.logs.append(text)
            else:
                slot, pid, words = text.split(" ", 2)
                self.said.append(Said(int(slot), int(pid), words))

    def hear(self, text: str, times: int = 1) -> list[Said]:
        """Wait until `text` was said so often; who said it."""
        self.until(lambda: len(self._who(text)) >= times, f"{text!r}, {times} times")
        return self._who(text)

    def _who(self, text: str) -> list[Said]:
        return [one for one in self.said if one.text == text]

    def log(self, text: str) -> dict[str, Any]:
        """Wait for a line of the log with `text` in it; its fields."""
        self.until(lambda: any(text in line for line in self.logs), f"a line with {text!r}")
        found: dict[str, Any] = json.loads(next(line for line in self.logs if text in line))
        return found

    def ended(self) -> int:
        """Wait for the end of the parent; its exit code. The rest of its log is in `logs` then."""
        stderr = self.parent.stderr
        assert stderr is not None
        self.until(lambda: stderr.fileno() not in self._selector.get_map(), "the end of the parent")
        return self.parent.wait(LIMIT_S)

    # -- signals

    def signal(self, number: signal.Signals) -> None:
        """To the parent."""
        self.parent.send_signal(number)

    def stop(self) -> int:
        """Drain; the exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()


def wait_gone(pid: int, limit_s: float) -> float:
    """Wait until a process that is no child of ours is gone; how long that took."""
    began = time.monotonic()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        assert selector.select(limit_s), f"process {pid} is still there after {limit_s} s"
    os.close(descriptor)
    return time.monotonic() - began
