"""One broker process: spawn it, know it again, signal it with its children, wait for its end.

A process is known by its id and its start time, so a stale file never leads to somebody else's process.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# The parent-death signal fires when the spawning *thread* ends, so all spawning is done by one that lives as long
# as this process.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="broker-spawner")
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Process:
    """A process by id and start time (clock ticks since boot)."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        for child in _children:
            child.poll()
        return _alive(self)

    def wait_gone(self, timeout_s: float) -> bool:
        """Wait for its end; False after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.alive:
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                return False
            try:
                fd = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return True
            try:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll(left_ms)
            finally:
                os.close(fd)
        return True

    def signal_tree(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its descendants, parents first."""
        if not self.alive:
            return
        for pid in [self.pid, *_descendants(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_tree(self, timeout_s: float) -> bool:
        """SIGKILL the process and all its descendants; False if one still lives after `timeout_s`.

        It is stopped first: what it forks between a look at its descendants and its end would outlive it, and hold
        PostgreSQL's shared memory against the next start.
        """
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, signal.SIGSTOP)
        family = [self, *(Process(pid, _start_time(pid) or 0) for pid in _descendants(self.pid))]
        self.signal_tree(signal.SIGKILL)
        return all(process.wait_gone(timeout_s) for process in family)

    def save(self, path: Path) -> None:
        """Remember it in a file, which others never see half written."""
        written = path.with_suffix(".new")
        written.write_text(f"{self.pid} {self.started}\n")
        written.replace(path)


def load_process(path: Path) -> Process | None:
    """Read back what `Process.save` wrote; None if there is no such process any more."""
    try:
        pid, started = map(int, path.read_text().split())
    except (OSError, ValueError):
        return None
    process = Process(pid, started)
    return process if process.alive else None


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    keep_fds: Sequence[int] = (),
    identity: Sequence[str] = (),
    dies_with_us: bool,
) -> Process:
    """Start a program in a session of its own, its output appended to `log`.

    Args:
        command: program and arguments.
        log: file for stdout and stderr.
        cwd: its working directory.
        env: variables added to ours.
        keep_fds: descriptors that it inherits.
        identity: a command prefix that changes the user.
        dies_with_us: the kernel kills it as soon as this process is gone, however that happens.
    """
    if dies_with_us:
        command = ["setpriv", "--pdeathsig", "KILL", "--", *command]  # after `identity`, which would clear it

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [*identity, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                pass_fds=keep_fds,
                start_new_session=True,
            )

    child = _spawner.submit(start).result()
    _children.append(child)
    return Process(child.pid, _start_time(child.pid) or 0)


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # the program's name in front of it may hold anything


def _start_time(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[19]) if stat else None


def _alive(process: Process) -> bool:
    stat = _stat(process.pid)
    return stat is not None and stat[0] not in "ZX" and int(stat[19]) == process.started


def _descendants(pid: int) -> Iterator[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in children:
        yield child
        yield from _descendants(child)


def this_process() -> Process:
    """The process that runs this."""
    return Process(os.getpid(), _start_time(os.getpid()) or 0)
