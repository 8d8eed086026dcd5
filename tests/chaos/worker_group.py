"""The worker under fire: the real command line in processes of its own, killed, rolled, scaled."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from hexa_worker.testing.judge import Fault
from hexa_worker.testing.ledger import read

SOMEBODY_S = 10.0
"""How long to wait for a process that can be hit."""
ROLL_S = 60.0
STEADY_S = 2.0
"""A process that was started so long ago has read worker.toml."""
FAILED = b"reload failed"
MISTAKE_S = 3.0
"""So long is looked for a process that a rolling restart onto a mistake ended."""
MISTAKES: Sequence[Callable[[str], str]] = (
    lambda good: good.replace("processes", "proceses"),
    lambda good: good.replace("tests.chaos.chaos_handlers", "tests.chaos.nowhere"),
    lambda good: good + "[[[",
)
"""What may be wrong with a worker.toml."""


class WorkerGroup:
    """One worker, parent and children.

    Args:
        folder: where its worker.toml is.
        processes: how many children it starts with.
        environment: variables besides ours.

    Attributes:
        ended: exit codes of parents that ended though nobody asked them to.
    """

    def __init__(self, folder: Path, processes: int, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._processes = processes
        path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment = {**os.environ, "PYTHONPATH": path, **environment}
        self._parent: psutil.Popen | None = None
        self.ended: list[int] = []

    @property
    def log(self) -> Path:
        """All that the worker said."""
        return self._folder / "worker.log"

    def start(self, *arguments: str) -> None:
        """Start it as an operator would."""
        with self.log.open("ab") as log:
            self._parent = psutil.Popen(
                [sys.executable, "-m", "hexa_worker", "run", *arguments],
                cwd=self._folder,
                env=self._environment,
                stderr=log,
                stdout=log,
            )

    def revive(self) -> None:
        """Note a parent that ended by itself, and start another one."""
        assert self._parent is not None
        code = self._parent.poll()
        if code is not None:
            self.ended.append(code)
            self.start()

    def family(self) -> list[psutil.Process]:
        """Parent and children, as far as they live."""
        assert self._parent is not None
        try:
            parent = psutil.Process(self._parent.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill_child(self, pick: float) -> list[Fault]:
        """SIGKILL one child; `pick` says which."""
        deadline = time.monotonic() + SOMEBODY_S
        while time.monotonic() < deadline:
            children = self.family()[1:]
            if children:
                victim = children[int(pick * len(children))]
                return _kill(victim, [victim])
            self.revive()
            time.sleep(0.05)
        return []

    def kill_parent(self) -> list[Fault]:
        """SIGKILL the parent, see its children die with it, start it again."""
        family = self.family()
        faults = _kill(family[0], family) if family else []
        assert self._parent is not None
        self._parent.wait()
        self.start()
        return faults

    def roll(self) -> bool:
        """A rolling restart; whether every process was replaced in time."""
        before = {one.pid for one in self.family()[1:]}
        self._signal(signal.SIGHUP)
        count = min(len(before), self._processes)  # there is one more while an earlier one goes on
        return self._wait(lambda now: not before & now and len(now) >= count, ROLL_S)

    def bad_roll(self, pick: float) -> str:
        """A rolling restart onto what cannot start; `pick` says what is wrong with it.

        Returns:
            What went wrong with that: the processes must be the same when it is over. Empty: all is well.
        """
        self._wait(lambda now: len(now) >= self._processes and self._youngest_s() >= STEADY_S, ROLL_S)
        before = {one.pid for one in self.family()[1:]}
        path, said = self._folder / "worker.toml", self.log.read_bytes().count(FAILED)
        good = path.read_text()

        def ended(now: set[int]) -> bool:
            return not before <= now | self._killed()

        try:
            path.write_text(MISTAKES[int(pick * len(MISTAKES))](good))
            self._signal(signal.SIGHUP)
            # No longer than that: whoever is started anew meanwhile, because an event killed it, cannot start.
            self._wait(lambda now: ended(now) or self.log.read_bytes().count(FAILED) > said, MISTAKE_S)
        finally:
            path.write_text(good)
        kept = not self._wait(ended, MISTAKE_S)
        return "" if kept else "a rolling restart onto a mistake ended a process"

    def _youngest_s(self) -> float:
        """How long ago the latest process was started."""
        return min((time.time() - one.create_time() for one in self.family()), default=0.0)

    def _killed(self) -> set[int]:
        """Processes that an event made kill themselves."""
        return {one.pid for one in read(self._folder / "ledger") if one.what == "dying"}

    def scale(self, count: int) -> bool:
        """Another number of processes; whether it was reached in time."""
        deadline = time.monotonic() + ROLL_S
        while (have := len(self.family()) - 1) != count and time.monotonic() < deadline:
            step = 1 if have < count else -1
            self._signal(signal.SIGTTIN if step > 0 else signal.SIGTTOU)
            self._wait(lambda now, goal=have + step: len(now) == goal, ROLL_S / 4)  # type: ignore[misc]
        return have == count

    def stop(self) -> int:
        """SIGTERM, as an operator would; its exit code."""
        self._signal(signal.SIGTERM)
        assert self._parent is not None
        return int(self._parent.wait(timeout=60))

    def run_until_idle(self, timeout_s: float) -> int:
        """Let it finish all there is; its exit code."""
        self.start("--until-idle")
        assert self._parent is not None
        return int(self._parent.wait(timeout=timeout_s))

    def end(self) -> None:
        """Leave nothing behind."""
        for process in self.family() if self._parent is not None else ():
            process.kill()
        if self._parent is not None:
            self._parent.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._parent is not None
        if self._parent.poll() is None:
            self._parent.send_signal(number)

    def _wait(self, good: Callable[[set[int]], bool], within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if good({one.pid for one in self.family()[1:]}):
                return True
            time.sleep(0.05)
        return False


def _kill(victim: psutil.Process, doomed: list[psutil.Process]) -> list[Fault]:
    at = time.monotonic()
    try:
        victim.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return []
    for one in doomed:
        one.wait(timeout=10)
    return [Fault(at=at, until=time.monotonic(), pid=one.pid) for one in doomed]
