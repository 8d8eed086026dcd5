"""Worker processes that are killed while events come, whose handlers write down what they saw."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import anyio

from hexa_worker.drivers.base import Driver
from tests.drivers.consuming import publish

HANDLER = """
from hexa_worker import Context, subscribe

@subscribe("{action}.in", action="{action}")
async def handle(payload: int, ctx: Context) -> None:
{trouble}    with open("seen", "a") as file:
        file.write(f"{{payload}}\\n")
"""
NO_SIGNALS: Mapping[int, signal.Signals] = MappingProxyType({})


class KilledWorker:
    """One project, and one worker of it at a time.

    Args:
        folder: where the project is written.
        action: the action of its handler, which reads ``{action}.in``.
        backend: the event loop.
        broker: ``[broker]`` and what follows in worker.toml.
        trouble: lines at the beginning of the handler.
    """

    def __init__(self, folder: Path, action: str, backend: str, broker: str, trouble: str = "") -> None:
        self.folder = folder
        self.channel = f"{action}.in"
        (folder / "h.py").write_text(HANDLER.format(action=action, trouble=trouble))
        (folder / "worker.toml").write_text(
            f'[worker]\nname = "kill"\nhandlers = ["h"]\nbackend = "{backend}"\n[broker]\n{broker}'
        )

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        """One more worker."""
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "hexa_worker", "run", *options]
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)

    def seen(self) -> set[int]:
        """What handlers wrote down."""
        try:
            return {int(line) for line in (self.folder / "seen").read_text().splitlines()}
        except FileNotFoundError:
            return set()

    async def lose_nothing(
        self, driver: Driver, count: int = 3_000, also: Mapping[int, signal.Signals] = NO_SIGNALS
    ) -> None:
        """Publish numbers to a worker that is killed after every thousand of them; all are seen.

        Args:
            driver: what publishes.
            count: how many.
            also: signals that the worker is sent before a number.
        """
        worker = self.start()
        try:
            for number in range(count):
                if number % 1_000 == 500:
                    worker.kill()
                    worker.wait()
                    worker = self.start()
                if number in also:
                    worker.send_signal(also[number])
                await publish(driver, self.channel, b"%d" % number, key=b"%d" % (number % 50))
            with anyio.fail_after(60):
                while len(self.seen()) < count:
                    await anyio.sleep(0.2)
        finally:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
            assert worker.wait(30) == 0
        assert self.seen() == set(range(count))
