"""The parent: starts the children, waits for signals, sockets and deadlines, and sums up at the end.

No event loop and no broker client is imported here: the parent must stay small and must not hang.
"""

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from hexa_worker.config.model import Config, Http
from hexa_worker.errors import ConfigError
from hexa_worker.processes.control.operations import Operations
from hexa_worker.processes.control.server import ControlServer
from hexa_worker.processes.journal import read_journal
from hexa_worker.processes.pool import Pool
from hexa_worker.processes.private import private_folder
from hexa_worker.processes.protocol import EXIT_FAILED, EXIT_OK
from hexa_worker.processes.reloading import Reloader, rules_of
from hexa_worker.processes.slot import Slot
from hexa_worker.processes.spawn import CHILD_COMMAND, Command, Spawned, require_interpreter, secure_descriptors
from hexa_worker.processes.state_files import StateFiles, take_lock
from hexa_worker.processes.status.totals import summary
from hexa_worker.processes.suspects import CrashCounter
from hexa_worker.processes.systemd import Systemd
from hexa_worker.processes.wakeup import Wakeup
from hexa_worker.telemetry.configure import configure
from hexa_worker.telemetry.log import FIELDS

STALL_S: Final = 1.0
"""When a wait takes this much longer than asked for, the parent itself was stopped."""

log = logging.getLogger("hexa_worker.processes")


def run_parent(  # noqa: PLR0913 - one keyword per option of the command
    config_path: Path,
    config: Config,
    *,
    processes: int | None = None,
    until_idle: bool = False,
    backend: str | None = None,
    only: tuple[str, ...] = (),
    command: Command = CHILD_COMMAND,
    first: Spawned | None = None,
) -> int:
    """Run worker processes until they are stopped (or idle). Only in the main thread.

    SIGTERM and SIGINT drain, a second one cancels; SIGHUP replaces one process after the other; SIGTTIN and
    SIGTTOU add and remove a process; SIGUSR1 logs a status.

    Args:
        config_path: worker.toml; children read it again.
        config: what it says.
        processes: how many, instead of the configured number.
        until_idle: end when nothing is left to do.
        backend: instead of the configured one.
        only: the subscriptions that run; empty: all.
        command: how a child is started.
        first: a child that was started so already, to save time; it ends by itself when this raises.

    Returns:
        0 after a clean drain or when idle; 1 when something failed for good or had to be killed at the end.

    Raises:
        ConfigError: nothing can run with this configuration.
    """
    worker = config.file.worker
    secure_descriptors()
    require_interpreter()
    configure(level=worker.log.level, style=worker.log.format)
    rules = rules_of(config_path, config, command=command, until_idle=until_idle, backend=backend, only=only)
    layout = StateFiles.of(rules.arguments.state_dir, worker.name)
    reloader = Reloader(config, rules, processes_fixed=processes is not None)
    with ExitStack() as stack:
        stack.callback(os.close, take_lock(layout.lock))
        selector = stack.enter_context(selectors.DefaultSelector())
        pool = Pool(rules, processes or worker.processes, layout, _open_book(layout), selector, time.monotonic, first)
        control = _open_control(pool, selector, layout, reloader)
        stack.callback(control.close)
        return _run(pool, selector, worker.http, reloader, control)


def _run(
    pool: Pool, selector: selectors.BaseSelector, http: Http | None, reloader: Reloader, control: ControlServer
) -> int:
    """Run a pool until it is over; see `run_parent`."""
    with ExitStack() as stack:
        if http is not None:
            stack.callback(_serve_status(http, pool))
        wakeup = Wakeup()
        stack.enter_context(wakeup.listening())
        stack.enter_context(_no_child_left(pool))
        _loop(pool, wakeup, selector, reloader, control)
        _sum_up(pool)
        if pool.config_error is not None:
            raise pool.config_error
        return EXIT_FAILED if pool.failed else EXIT_OK


def _open_control(
    pool: Pool, selector: selectors.BaseSelector, layout: StateFiles, reloader: Reloader
) -> ControlServer:
    """Do what was asked before the last stop, and listen for more.

    Raises:
        ConfigError: what was asked cannot be read.
    """
    operations = Operations(pool, layout.control, partial(reloader.reload, pool), time.monotonic)
    return ControlServer(layout.socket, selector, operations, time.monotonic)


def _serve_status(config: Http, pool: Pool) -> Callable[[], None]:
    """Serve the status pages; returns what ends that. Raises ConfigError."""
    from hexa_worker.processes.status.http import StatusServer  # noqa: PLC0415 - only where it is configured

    return StatusServer(config, pool.look).close


def _open_book(layout: StateFiles) -> CrashCounter:
    """Open the suspects, and count what a killed parent and its children left behind.

    Raises:
        ConfigError: state_dir cannot be written, or others may write there.
    """
    try:
        private_folder(layout.folder)
        book = CrashCounter(layout.folder)
        for path in layout.journals():
            blamed = book.record(read_journal(path))
            path.unlink()
            if blamed:
                names = ", ".join(f"{hand.action} {hand.message_id} ({crashes})" for hand, crashes in blamed.items())
                log.error("a worker process died with its parent", extra={FIELDS: {"in_hand": names}})
    except OSError as error:
        raise ConfigError(
            f"the worker's state_dir cannot be used: {error}",
            where=str(layout.folder),
            hint="[worker] state_dir must name a folder that this user may write",
        ) from error
    return book


def _loop(
    pool: Pool, wakeup: Wakeup, selector: selectors.BaseSelector, reloader: Reloader, control: ControlServer
) -> None:
    selector.register(wakeup.reader, selectors.EVENT_READ)
    systemd = Systemd.of(os.environ)
    while not pool.over:
        began = time.monotonic()
        due = control.advance()
        if time.monotonic() - began > STALL_S:  # it looks up users and writes files
            pool.forgive_silence()
        timeout = _sooner(pool.advance(), due)
        if pool.over:
            return
        if systemd is not None:
            timeout = systemd.tell(pool.look, timeout, stopping=pool.stop_level > 0)
        began = time.monotonic()
        ready = selector.select(timeout)
        if timeout is not None and time.monotonic() - began > timeout + STALL_S:
            pool.forgive_silence()
        for key, _ in ready:
            if isinstance(key.data, Slot):
                pool.on_readable(key.data)
            elif key.data is not None:
                key.data()
        for number in wakeup.signals():
            _obey(pool, number, reloader)
        pool.reap()


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((due for due in (one, other) if due is not None), default=None)


def _obey(pool: Pool, number: signal.Signals, reloader: Reloader) -> None:
    match number:
        case signal.SIGTERM | signal.SIGINT:
            log.info("%s: %s", number.name, ("draining", "cancelling", "killing")[pool.stop_level])
            pool.stop()
        case signal.SIGHUP:
            reloader.reload(pool)
        case signal.SIGTTIN:
            pool.scale(+1)
        case signal.SIGTTOU:
            pool.scale(-1)
        case signal.SIGUSR1:
            _say_status(pool)
        case _:
            pass  # SIGCHLD: it is enough to be awake


def _say_status(pool: Pool) -> None:
    for slot in pool.slots.values():
        states = {one.action: one.state.name.lower() for one in slot.report.subscriptions}
        fields = {"slot": slot.number, "pid": slot.pid, "restarts": slot.restarts, **states}
        log.info("process is %s", slot.phase.name.lower(), extra={FIELDS: fields})


def _sum_up(pool: Pool) -> None:
    """What was done, one line per subscription."""
    for action, total in sorted(pool.totals.sums().items()):
        log.info("%s", summary(action, total.counters))


@contextmanager
def _no_child_left(pool: Pool) -> Iterator[None]:
    """Whatever happens to the parent's own code, no child survives it."""
    try:
        yield
    finally:
        for slot in pool.slots.values():
            with suppress(ProcessLookupError, ChildProcessError):  # it has just been waited for
                if slot.pid:
                    os.kill(slot.pid, signal.SIGKILL)
                    os.waitpid(slot.pid, 0)
