"""A worker inside a program of one's own: `run` as the command does, `serve_worker` beside what the program does.

`serve_worker` is one process, the program's own: what only a parent process can do stays with `run`. Deliveries that
kill their process are not counted, nothing restarts a process that hangs, and no status page is served.
"""

import contextlib
import logging
import threading
from collections.abc import Awaitable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from hexa_worker.actors.supervisor import Supervisor
from hexa_worker.app import ServeOptions, serve
from hexa_worker.config.load import load_config
from hexa_worker.config.model import Config
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.drivers.base import Driver
from hexa_worker.errors import ConfigError, WorkerFailed, only_error
from hexa_worker.lineage.opening import recording
from hexa_worker.stop import CANCEL, DRAIN, StopSignals
from hexa_worker.subscriptions.loader import load_plans
from hexa_worker.subscriptions.plan import Loaded
from hexa_worker.telemetry.report import Report

_UNSET: Any = object()
log = logging.getLogger("hexa_worker.serving")


def run(
    path: str | Path = "worker.toml",
    *,
    processes: int | None = None,
    until_idle: bool = False,
    backend: str | None = None,
) -> int:
    """Run a worker until it is stopped, as ``hexa-worker run`` does: with processes and signals of its own.

    Only in the main thread of a program. A script ends with ``sys.exit(run("worker.toml"))``.

    Args:
        path: worker.toml.
        processes: how many, instead of the configured number.
        until_idle: handle everything, retries included, then end.
        backend: ``asyncio`` or ``trio``, instead of the configured one.

    Returns:
        The exit code: 0 after a clean drain or when idle; 1 when something failed for good.

    Raises:
        ConfigError: nothing can run with this configuration.
    """
    from hexa_worker.processes import run_parent  # noqa: PLC0415 - `serve_worker` needs none of it

    if threading.current_thread() is not threading.main_thread():
        raise ConfigError(
            "run takes the signals of its process", hint="call it in the main thread, or use serve_worker"
        )
    path = Path(path).absolute()
    return run_parent(path, load_config(path), processes=processes, until_idle=until_idle, backend=backend)


class ServedWorker:
    """A worker that runs inside this process, on this event loop; see `serve_worker`."""

    def __init__(self, path: Path, state: Any, driver: Driver | None) -> None:
        self._path = path
        self._driver = driver
        self._state = state
        self._signals = StopSignals()
        self._supervisor: Supervisor | None = None
        self._report = Report()
        self._news = anyio.Event()
        self._ended = anyio.Event()
        self._failure: Exception | None = None
        self._group: TaskGroup

    def status(self) -> Report:
        """How it stands: `ready`, `alive`, and each of its `subscriptions` with its state, error and counters."""
        if self._supervisor is None:
            return self._report
        return replace(self._supervisor.report(), outbox=self._report.outbox)

    async def wait_ready(self) -> None:
        """Wait until every subscription consumes, however long the broker is unavailable. Cancellation: safe.

        Raises:
            WorkerFailed: it was stopped, or ended, before.
        """
        while not self.status().ready:
            if self._ended.is_set() or self._signals.level:
                raise WorkerFailed("the worker was stopped before it was ready")
            await self._news.wait()

    def stop(self, *, cancel: bool = False) -> Awaitable[None]:
        """Ask it to stop: it receives no more, and running handlers end. ``await worker.stop()`` waits for that.

        Args:
            cancel: cancel running handlers too; their deliveries come again.
        """
        self._signals.ask(CANCEL if cancel else DRAIN)
        self._tell()
        return _Until(self._ended)

    async def __aenter__(self) -> Self:
        """Start. The broker may be unavailable; see `wait_ready`.

        Raises:
            ConfigError: worker.toml or its handlers cannot work.
        """
        config = load_config(self._path)
        loaded = load_plans(config, state_given=self._state is not _UNSET)
        if self._state is not _UNSET:
            state = self._state
            loaded = replace(loaded, lifespan=lambda: contextlib.nullcontext(state))
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._run, config, loaded)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Drain, within `shutdown_grace_s`; a block that was cancelled cancels handlers at once.

        Raises:
            WorkerFailed: a subscription has failed for good.
            Exception: what ended the worker: its lifespan's error, or the broker's refusal.
        """
        cancelled = isinstance(error, anyio.get_cancelled_exc_class())
        self.stop(cancel=cancelled)
        with anyio.CancelScope(shield=True):
            await self._ended.wait()
        told = (kind, error, traceback) if cancelled else (None, None, None)
        swallowed = await self._group.__aexit__(*told)  # told of no error of the block's, it wraps none
        if self._failure is not None:
            if error is None or cancelled:
                raise self._failure
            log.error("the worker failed, too: %s", self._failure)
        return swallowed if cancelled else None

    async def _run(self, config: Config, loaded: Loaded) -> None:
        try:
            with recording(config) as recorder:
                record = None if recorder is None else recorder.record
                options = ServeOptions(
                    driver=self._driver, record=record, report=self._hear, beside=self._know, preflight=True
                )
                code = await serve(config, loaded, self._signals, options)
            if code:
                self._failure = WorkerFailed(self._why())
        except Exception as raised:  # noqa: BLE001 - whatever it is, the block hears of it
            flat = only_error(raised)
            self._failure = flat if isinstance(flat, Exception) else raised
        finally:
            self._ended.set()
            self._tell()
        if self._failure is not None and not self._signals.level:
            self._group.cancel_scope.cancel()

    async def _know(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def _hear(self, report: Report) -> None:
        self._report = report
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def _why(self) -> str:
        failed = [one for one in self.status().subscriptions if one.state is WorkerState.FAILED]
        return "; ".join(f"subscription {one.action} failed: {one.error}" for one in failed) or "the worker failed"


class _Until:
    """Waits for an event where somebody awaits it, and costs nothing where nobody does."""

    def __init__(self, event: anyio.Event) -> None:
        self._event = event

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()


def serve_worker(
    path: str | Path = "worker.toml", *, state: Any = _UNSET, driver: Driver | None = None
) -> ServedWorker:
    """A worker beside an application or a test, for the length of an ``async with`` block.

    It runs on the loop of the block, asyncio or trio, in this process only: `processes`, `[worker.http]` and
    `[worker.log]` say nothing here. Enter and leave the block in the same task. The end of the block drains: what was
    received is handled, or is released and comes again. What ends the worker ends the block: its tasks are cancelled
    and the error is raised. No signal is touched.

    Args:
        path: worker.toml.
        state: `Context.state` for the handlers, instead of what their lifespan yields.
        driver: instead of the configured one.

    Raises:
        ConfigError: on entering: worker.toml or its handlers cannot work.
    """
    return ServedWorker(Path(path), state, driver)
