"""The harness: a user's real handlers, run by the real runtime on the memory driver, in virtual time.

Everything between `emit` and the lists of records is what production runs: decoding, lanes, deadlines,
middlewares, lifespan, retries, dead letters. Only the broker and the clock are others.
"""

import contextlib
import sqlite3
import sys
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar

import msgspec

from hexa_worker.app import ServeOptions, serve
from hexa_worker.codecs import encode
from hexa_worker.config.load import load_config
from hexa_worker.config.model import ChannelConfig, Config, File, Memory, Subscription, WorkerConfig
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Headers, Message
from hexa_worker.core.propagated import User
from hexa_worker.core.retry import Retries
from hexa_worker.core.settlement import Acked, DeadLettered, Postponed, RetryAt, Settlement, is_snooze
from hexa_worker.dedup.memory import MemoryClaims
from hexa_worker.drivers.base import Revoked, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.memory import MemoryDriver, MemorySource, MemoryStore
from hexa_worker.drivers.opening import specs
from hexa_worker.errors import ConfigError, DriverError, HexaWorkerError, only_error
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.stop import CANCEL, StopSignals
from hexa_worker.subscriptions.api import Event
from hexa_worker.subscriptions.loader import load_plans, plans_in
from hexa_worker.subscriptions.plan import Loaded
from hexa_worker.telemetry.report import Report
from hexa_worker.testing.outbox import Crashes, CrashingSource, HarnessOutbox
from hexa_worker.testing.records import Emitted, Settled, emitted, settled
from hexa_worker.testing.virtual import Backend, VirtualTime

T = TypeVar("T")
LIMIT_S = 10.0
_BEFORE_DUE_S = 0.01
"""The rest of a wait passes as it does anywhere else."""
_UNSET: Any = object()


class HarnessError(HexaWorkerError):
    """A run under the harness did not come to its end."""


class Harness:
    """Runs handlers as a worker would; no broker, no sleeping.

    Args:
        handlers: modules that hold handlers, or handler functions themselves (a lifespan, too).
        settings: what worker.toml would say under ``[subscriptions]``, by action.
        state: `Context.state` for the handlers, instead of what their lifespan yields.
        backend: the event loop to run on.
        channels: what it would say under ``[channels]``, by channel: where the type of an event stands.
        outbox: a SQLite connection, in memory if you like, that handlers use by `Context.outbox` and
            `Context.transaction`: its tables are made, and what is committed is sent.

    Attributes:
        acked: deliveries that are done, in the order they were settled; dropped ones are among them.
        retried: deliveries that failed and were stored for a retry, or kept in their place for it.
        snoozed: deliveries whose handlers answered `Snooze`.
        dead_letters: deliveries that were given up.
        on_hold: how many deliveries hold which action, after the last run; the next run tries them again.
        emitted: events that handlers emitted.

    Raises:
        ConfigError: handlers or settings cannot work, as `hexa-worker check` would say.
    """

    def __init__(  # noqa: PLR0913 - one keyword per part of a project
        self,
        handlers: Sequence[ModuleType | Callable[..., Any]],
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        channels: Mapping[str, Mapping[str, Any]] | None = None,
        state: Any = _UNSET,
        backend: Backend = "asyncio",
        outbox: sqlite3.Connection | None = None,
    ) -> None:
        config, loaded = load_handlers(handlers, settings, channels)
        self._set_up(config, loaded, state, backend, outbox)

    @classmethod
    def from_config(
        cls,
        path: str | Path,
        *,
        state: Any = _UNSET,
        backend: Backend = "asyncio",
        outbox: sqlite3.Connection | None = None,
    ) -> Self:
        """A harness with the handlers and settings of a worker.toml; its broker is not touched.

        Raises:
            ConfigError: worker.toml or its handlers cannot work.
        """
        harness = cls.__new__(cls)
        import_path = sys.path.copy()
        config = load_config(Path(path))
        loaded = load_plans(config, state_given=state is not _UNSET)
        harness._set_up(config, loaded, state, backend, outbox)  # noqa: SLF001 - an object of this class
        harness._import_path = import_path  # noqa: SLF001 - as above
        return harness

    def _set_up(
        self, config: Config, loaded: Loaded, state: Any, backend: Backend, outbox: sqlite3.Connection | None
    ) -> None:
        if state is not _UNSET:
            loaded = msgspec.structs.replace(loaded, lifespan=lambda: contextlib.nullcontext(state))
        self.acked: list[Settled] = []
        self.retried: list[Settled] = []
        self.snoozed: list[Settled] = []
        self.dead_letters: list[Settled] = []
        self.emitted: list[Emitted] = []
        self._config = config
        self._loaded = loaded
        self._backend = backend
        self._import_path: list[str] | None = None
        self._decoders = {plan.action: plan.handler.decode for plan in loaded.plans}
        self.on_hold: dict[str, int] = {}
        self._groups = [plan.group for plan in loaded.plans]
        self._ticking = {plan.group for plan in loaded.plans if plan.internal}
        self._time = VirtualTime()
        self._store = MemoryStore(self._time)
        self._claims = MemoryClaims(lease_s=config.file.dedup.lease_s, clock=self._time)
        for spec in specs(loaded):
            self._store.declare(spec)
        self._emitter = EventEncoder(MemoryDriver(self._store), self._time, encode)
        table = "hexa_outbox" if config.file.outbox is None else config.file.outbox.table
        self._outbox = HarnessOutbox(outbox, table, self._time)
        self._crashes = Crashes()
        self._horizon_ms: int | None = None
        if loaded.ticker is not None:
            loaded.ticker.bind(self._emitter, self._time.now_ms)
            complete(loaded.ticker.seed())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._import_path is not None:
            sys.path[:] = self._import_path

    @property
    def now(self) -> datetime:
        """The virtual time: it starts on 2026-01-01 and passes only in `run_until_idle` and `advance`."""
        return datetime.fromtimestamp(self._time.now_ms() / 1000, UTC)

    @property
    def idle(self) -> bool:
        """Nothing is left to do: no event unhandled, no retry waiting."""
        return all(self._is_idle(group) for group in self._groups)

    def _is_idle(self, group: str) -> bool:
        backlog = self._store.backlog(group)
        if self._horizon_ms is not None:
            return backlog.waits_only and (backlog.next_due_ms is None or backlog.next_due_ms > self._horizon_ms)
        return backlog.waits_only if group in self._ticking else backlog.idle

    def _idle_without(self, held: Collection[str]) -> bool:
        others = (plan.group for plan in self._loaded.plans if plan.action not in held)
        return all(self._store.backlog(group).idle for group in others)

    def advance(self, seconds: float) -> None:
        """Let virtual time pass without running anything."""
        self._time.pass_s(seconds)

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass, and run what is due in it when it is due: events for later, retries, schedules.

        Raises: as `run_until_idle`.
        """
        self._horizon_ms = end_ms = self._time.now_ms() + round(seconds * 1000)
        try:
            self.run_until_idle()
        finally:
            self._horizon_ms = None
        self._time.pass_s(max((end_ms - self._time.now_ms()) / 1000, 0.0))

    def emit(  # noqa: PLR0913 - one keyword per part of an event
        self,
        channel: str,
        payload: Any = None,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002 - the event's field
        correlation_id: str | None = None,
        user: User | None = None,
        locale: str | None = None,
        reply_to: str | None = None,
        carried: Headers = (),
        parent: Lineage | None = None,
        after: float | timedelta | None = None,
        at: datetime | None = None,
        expires_in: float | timedelta | None = None,
        timeout_s: float | None = None,
        event_id: str | None = None,
    ) -> str:
        """Emit an event, as an application would; returns its event id. Handlers run in `run_until_idle`.

        It takes what `SyncEmitter.emit` takes, so a harness can stand in for that in an application's tests.

        Args:
            channel: where to.
            payload: bytes and str go out as they are, anything else as JSON.
            key: keeps its order among events of the same key.
            headers: names and values of your own.
            id: the event id.
            correlation_id: joins all that one request made happen.
            user: on whose behalf.
            locale: the user's.
            carried: further headers to take over from another event.
            reply_to: the channel where an answer is expected; see `Event`.
            after: deliver it so much later, in virtual time.
            at: deliver it at this virtual time.
            expires_in: drop it, and do not run it, when so much time has passed since it could be delivered first.
            parent: the event that it is a child of; None starts a new tree.
            timeout_s: of no effect: nothing here takes time.
            event_id: an older name of `id`.

        Raises:
            ConfigError, DriverRejected: the event cannot be emitted.
        """
        del timeout_s
        event = Event(
            channel=channel,
            payload=payload,
            key=key,
            headers=headers or {},
            id=event_id if id is None else id,
            correlation_id=correlation_id,
            user=user,
            locale=locale,
            reply_to=reply_to,
            after=after,
            at=at,
            expires_in=expires_in,
            carried=carried,
        )
        return complete(self._emitter.emit(event, parent))

    def crash_before_acknowledging(self, times: int = 1) -> None:
        """Let the next deliveries that a handler has done come again, as if its process had died just then.

        What the handler has committed stays, and so does what it emitted.
        """
        self._crashes.left += times

    def relay(self) -> None:
        """Send what was committed to the outbox and is not sent yet; `run_until_idle` does it by itself."""
        messages = self._outbox.take()
        if messages:
            complete(_Listener(self._store, self.emitted, self._crashes).publish(messages))

    def emit_raw(self, message: Message) -> str:
        """Store a record as it is, as a foreign producer might; returns its message id."""
        (answer,) = complete(MemoryDriver(self._store).publish([message]))
        if isinstance(answer, DriverError):
            raise answer
        return answer

    def run_until_idle(self, *, limit_s: float = LIMIT_S) -> None:
        """Run the handlers until nothing is left to do, retries included; virtual time passes as needed.

        The lifespan is entered before and left after, in every run. In an async test the test's own loop stands still
        meanwhile: handlers run on a loop of the harness, in another thread.

        Args:
            limit_s: real seconds that this may take; plain ``def`` handlers take real time.

        Raises:
            HarnessError: it took longer (events that emit each other for ever?), or a subscription failed.
            Exception: what the lifespan raised.
        """
        self.relay()
        self.on_hold = {}
        if not self.idle:
            run = _Run(self, limit_s)
            self._time.run(run.run, backend=self._backend)

    def _skip_waiting(self) -> None:
        """Pass the time in which nothing is left to do but to wait for what is due: a worker at rest has its ticks."""
        backlogs = [self._store.backlog(group) for group in self._groups]
        dues = [one.next_due_ms for one in backlogs if one.next_due_ms is not None]
        if dues and not self.idle and not any(one.ready or one.leased for one in backlogs):
            self._time.pass_s(max((min(dues) - self._time.now_ms()) / 1000 - _BEFORE_DUE_S, 0.0))
            self._store.wake()

    def _record(self, action: str, settlements: Sequence[Settlement], now_ms: int) -> None:
        for one in settlements:
            lists = {
                Acked: self.acked,
                RetryAt: self.retried,
                Postponed: self.retried,
                DeadLettered: self.dead_letters,
            }
            kept = self.snoozed if is_snooze(one) else lists.get(type(one))
            if kept is not None:
                kept.append(settled(action, self._decoders[action], one, now_ms))


class _Run:
    """One `run_until_idle`."""

    def __init__(self, harness: Harness, limit_s: float) -> None:
        self._harness = harness
        self._limit_s = limit_s
        self._started = time.perf_counter()
        self._stop = StopSignals()
        self._problem: Exception | None = None

    async def run(self) -> None:
        harness = self._harness
        options = ServeOptions(
            driver=_Listener(harness._store, harness.emitted, harness._crashes),  # noqa: SLF001 - the harness and its run are one thing
            clock=harness._time,  # noqa: SLF001
            record=self._record,
            report=self._look,
            claims=harness._claims,  # noqa: SLF001
            transactions=harness._outbox.transactions,  # noqa: SLF001
        )
        try:
            await serve(harness._config, harness._loaded, self._stop, options)  # noqa: SLF001
        except BaseExceptionGroup as group:
            self._problem = self._problem or _only(group)
        if self._problem is not None:
            raise self._problem

    def _record(self, action: str, settlements: Sequence[Settlement], now_ms: int) -> None:
        self._harness._record(action, settlements, now_ms)  # noqa: SLF001
        self._harness.relay()
        if self._harness.idle:
            self._stop.ask()
        elif time.perf_counter() - self._started > self._limit_s:
            self._give_up(f"not idle after {self._limit_s:g} s of real time; do events emit each other for ever?")

    def _look(self, report: Report) -> None:
        for one in report.subscriptions:
            if one.state is WorkerState.FAILED:
                self._give_up(f"subscription {one.action} failed: {one.error}")
        self._look_at_held(report)
        if time.perf_counter() - self._started > self._limit_s:
            self._give_up(f"not idle after {self._limit_s:g} s of real time; does a handler wait for ever?")
        self._harness._skip_waiting()  # noqa: SLF001 - as above

    def _look_at_held(self, report: Report) -> None:
        """What is held goes on in no run, so one ends when nothing else is left to do."""
        harness = self._harness
        held = {one.action: one.counters.on_hold for one in report.subscriptions if one.counters.on_hold}
        if held and harness._idle_without(held):  # noqa: SLF001 - as above
            harness.on_hold = held
            self._stop.ask()

    def _give_up(self, why: str) -> None:
        self._problem = self._problem or HarnessError(why)
        self._stop.ask(CANCEL)


class _Listener(MemoryDriver):
    """A memory driver that notes what handlers publish."""

    def __init__(self, store: MemoryStore, heard: list[Emitted], crashes: Crashes) -> None:
        super().__init__(store)
        self._heard = heard
        self._crashes = crashes

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        del revoked
        source = CrashingSource(self.store, spec, self._crashes)
        self._sources.append(source)
        return source

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        answers = await super().publish(messages)
        for message, answer in zip(messages, answers, strict=True):
            if isinstance(answer, str):
                self._heard.append(emitted(message))
        return answers


def load_handlers(
    handlers: Sequence[ModuleType | Callable[..., Any]],
    settings: Mapping[str, Mapping[str, Any]] | None,
    channels: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Config, Loaded]:
    """Handlers put together as a worker.toml with these settings would; see `Harness`."""
    try:
        told = {action: _by_present_names(action, table) for action, table in (settings or {}).items()}
        subscriptions = msgspec.convert(told, dict[str, Subscription])
        typed = msgspec.convert(channels or {}, dict[str, ChannelConfig])
    except msgspec.ValidationError as error:
        raise ConfigError(str(error), where="settings of the harness") from error
    worker = WorkerConfig(name="harness", handlers=())
    file = File(worker=worker, broker=Memory(), subscriptions=subscriptions, channels=typed)
    config = Config(path=Path("harness").absolute(), file=file)
    return config, plans_in(_modules(handlers), config)


def _by_present_names(action: str, table: Any) -> Any:
    """The settings of one subscription; those of its retries may be called by their old names, as in worker.toml."""
    retry = table.get("retry") if isinstance(table, Mapping) else None
    if not isinstance(retry, Mapping):
        return table
    for old in Retries.OLD_NAMES.keys() & retry.keys():
        if (new := Retries.OLD_NAMES[old]) in retry:
            where = f"settings of the harness: {action}.retry.{old}"
            raise ConfigError(f"is the old name of {new}, which is given too", where=where, hint="leave it out")
    return {**table, "retry": {Retries.OLD_NAMES.get(key, key): value for key, value in retry.items()}}


def _modules(handlers: Sequence[ModuleType | Callable[..., Any]]) -> list[ModuleType]:
    """`handlers` as modules: loose functions are put into one of their own."""
    loose = ModuleType("harness")
    for number, one in enumerate(handlers):
        if not isinstance(one, ModuleType):
            setattr(loose, f"handler_{number}", one)
    return [*(one for one in handlers if isinstance(one, ModuleType)), loose]


def complete(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends: the memory driver answers at once."""
    try:
        call.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    call.close()
    raise HarnessError("the memory driver suspended")


def _only(group: BaseExceptionGroup[BaseException]) -> Exception:
    """The error in a group that holds one; the group, when it holds more."""
    error = only_error(group)
    if isinstance(error, Exception):
        return error
    raise error
