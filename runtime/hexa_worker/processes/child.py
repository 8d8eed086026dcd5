"""A worker process: ``python -m hexa_worker.processes.child``, started by the parent only.

What happens before user code is imported: stop signals are kept for later, the life is tied to the parent's,
the log carries the slot. It ends with `os._exit`, so that a handler's thread that never ends cannot hold it.

Exit codes: 0 idle, `EXIT_STOPPED` drained, 1 failed, 2 bad configuration (its text goes to the parent), `EXIT_STUCK`,
`EXIT_BROKEN`.
"""

import atexit
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hexa_worker.core.message import Delivery
from hexa_worker.errors import ConfigError, DriverBroken, DriverRejected, only_error
from hexa_worker.processes import parent_watch
from hexa_worker.processes.blocked import Blocked
from hexa_worker.processes.child_context import ChildContext, ChildProgram, Serve
from hexa_worker.processes.forked import let_forks_go
from hexa_worker.processes.journal import MappedJournal
from hexa_worker.processes.orders import Orders
from hexa_worker.processes.private import write_private
from hexa_worker.processes.protocol import (
    CANCEL_SIGNAL,
    DESCRIPTOR,
    EXIT_BROKEN,
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STOPPED,
    EXIT_STUCK,
    STACK_SIGNAL,
    STOP_SIGNAL,
    Arguments,
    Heartbeat,
    Link,
    Misconfigured,
    SettledFrame,
    StatusFrame,
    receive,
)
from hexa_worker.processes.state_files import StateFiles
from hexa_worker.processes.suspects import SuspectsFile
from hexa_worker.stop import CANCEL, DRAIN, StopSignals
from hexa_worker.telemetry.configure import configure, keep_speaking
from hexa_worker.telemetry.sink import FLUSH_S

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

STOP_LEVELS: Final[dict[int, int]] = {STOP_SIGNAL: DRAIN, signal.SIGINT: DRAIN, CANCEL_SIGNAL: CANCEL}
"""A signal to the whole group reaches a child twice, once through the parent: only the parent asks for more."""

SLOT_VARIABLE: Final = "HEXA_WORKER_SLOT"
"""Tells drivers and handlers which process of the worker this is."""

SWITCH_INTERVAL_S: Final = 0.0005
"""A driver's thread asks for the interpreter per row or batch; with Python's 5 ms it would mostly wait."""

COLLECT_AFTER: Final = 10_000
"""New objects between two collections. What a delivery is made of has no cycles, so Python's 700 would look at the
same thousands of queued deliveries dozens of times a second and find nothing."""

log = logging.getLogger("hexa_worker.processes")


def main(program: ChildProgram | None = None) -> None:
    """Run as a child; never returns."""
    gc.disable()  # importing makes no garbage: collections would only slow the start
    early: list[int] = []  # stop signals that came before the event loop could take them
    for number in STOP_LEVELS:
        signal.signal(number, lambda number, _frame: early.append(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    connection = socket.socket(fileno=DESCRIPTOR)
    connection.set_inheritable(False)
    chosen: ChildProgram | ConfigError
    try:
        chosen = program or _app()  # while the parent sends what comes next
    except ConfigError as error:
        chosen = error
    try:
        arguments = receive(connection)
    except EOFError:
        os._exit(EXIT_FAILED)
    blocked = Blocked()
    link = Link(connection)
    orders = Orders(arguments.controls, link.send, blocked.accuse)
    parent_watch.hold(connection, arguments.parent, orders.hear)
    code = EXIT_FAILED
    try:
        code = _run(arguments, link, early, chosen, blocked, orders)
    except ConfigError as error:
        link.send_final(Misconfigured(error.message, error.where, error.hint))
        code = EXIT_CONFIG
    except BaseException as raised:  # the last frame of a process
        cause = _innermost(raised)
        if isinstance(cause, ConfigError | DriverRejected):  # the broker will never take it: no restart mends that
            link.send_final(Misconfigured(str(cause), "", ""))
            _exit(EXIT_CONFIG)
        if isinstance(cause, DriverBroken):  # it has said what happened to it
            log.critical("worker process ends: %s", cause)
            _exit(EXIT_BROKEN)
        log.critical("worker process failed: %s: %s", type(cause).__qualname__, cause, exc_info=cause)
    _exit(code)


def _app() -> ChildProgram:
    """The real one; importing it may find a mistake in the environment (`hexa_worker.faults`)."""
    from hexa_worker.processes.child_program import AppProgram  # noqa: PLC0415 - tests bring their own

    return AppProgram()


def _innermost(error: BaseException) -> BaseException:
    """The one error inside a group, where there is only one, or the one that all subscriptions had of their driver."""
    if isinstance(error, BaseExceptionGroup) and error.subgroup(DriverBroken) is not None:
        return next(_leaves(error.subgroup(DriverBroken)))
    return only_error(error)


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    elif error is not None:
        yield error


def _exit(code: int) -> None:
    """End the process as usual, but wait for no thread."""
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()  # noqa: SLF001 - what the interpreter would do, without joining threads
    flushing = threading.Thread(target=_flush, daemon=True)  # nobody may read what handlers have printed
    with contextlib.suppress(BaseException):
        flushing.start()
        flushing.join(FLUSH_S)
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()


def _run(  # noqa: PLR0913 - what a process is made of
    arguments: Arguments,
    link: Link,
    early: list[int],
    program: ChildProgram | ConfigError,
    blocked: Blocked,
    orders: Orders,
) -> int:
    if isinstance(program, ConfigError):
        raise program
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with contextlib.suppress(OSError):  # or it stays where its parent is
        os.chdir(arguments.folder)
    os.environ[SLOT_VARIABLE] = str(arguments.slot)
    config = program.load(Path(arguments.config_path))
    worker = config.file.worker
    configure(level=worker.log.level, style=worker.log.format, slot=arguments.slot)
    layout = StateFiles.of(arguments.state_dir, arguments.name)
    stack = write_private(layout.stack(arguments.slot))
    faulthandler.register(STACK_SIGNAL, file=stack, all_threads=True)
    journal = MappedJournal(layout.journal(arguments.slot))
    let_forks_go(journal, link.connection)
    blocked.journal = journal

    def stuck(delivery: Delivery) -> None:
        journal.accuse(delivery.source, delivery.offset)
        faulthandler.dump_traceback(file=stack, all_threads=True)
        os._exit(EXIT_STUCK)

    stop = StopSignals()
    session = ChildContext(
        arguments=arguments,
        config=config,
        journal=journal,
        suspects=SuspectsFile(layout.folder, lambda hands: _sent(link, SettledFrame(hands))),
        report=lambda report: _sent(link, StatusFrame(report)),
        stuck=stuck,
        stop=stop,
        orders=orders,
    )
    serve = program.prepare(session)
    keep_speaking()
    gc.freeze()  # modules and handlers stay: no collection needs to look at them again
    gc.set_threshold(COLLECT_AFTER, 10, 10)
    gc.enable()
    return run_loop(
        partial(_serve, serve, link, early, session),
        backend=arguments.backend or worker.backend,
        uvloop=worker.uvloop,
    )


def _sent(link: Link, frame: SettledFrame | StatusFrame) -> None:
    link.send(frame)


def run_loop(run: Callable[[], Awaitable[int]], *, backend: str, uvloop: bool) -> int:
    """Run `run` on an event loop: asyncio on uvloop where it is wanted and installed, or trio."""
    import anyio  # noqa: PLC0415 - after the process has tied itself to its parent

    options: dict[str, Any] = {}
    if backend == "asyncio" and uvloop:
        try:
            import uvloop as module  # noqa: PLC0415

            options = {"loop_factory": module.new_event_loop}
        except ImportError:
            pass
    return anyio.run(run, backend=backend, backend_options=options)


async def _serve(serve: Serve, link: Link, early: list[int], session: ChildContext) -> int:
    """Serve, with the loop's heartbeat and the stop signals beside it."""
    import anyio  # noqa: PLC0415 - as in run_loop

    stop = session.stop

    async def obey(*, task_status: "TaskStatus[None]") -> None:
        with anyio.open_signal_receiver(*map(signal.Signals, STOP_LEVELS)) as signals:
            for number in early:
                stop.ask(STOP_LEVELS[number])
            task_status.started()
            async for number in signals:
                stop.ask(STOP_LEVELS[number])

    async def beat() -> None:
        while True:
            link.send(Heartbeat())
            keep_speaking()
            await anyio.sleep(session.arguments.beat_s)

    async with anyio.create_task_group() as group:
        await group.start(obey)
        group.start_soon(beat)
        code = await serve()
        if stop.level and code == EXIT_OK:
            code = EXIT_STOPPED
        # Before the receiver is closed: from then on a stop signal kills, and must not look like a crash.
        session.journal.close_cleanly(code)
        group.cancel_scope.cancel()
    return code


if __name__ == "__main__":
    main()
