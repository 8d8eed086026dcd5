"""Runs plans on a memory store until idle, or until the test says so."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import msgspec

from hexa_worker import app
from hexa_worker.config.dedup import Dedup
from hexa_worker.config.model import Config, File, Memory, WorkerConfig
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.restart import RestartPolicy
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.memory import MemoryDriver, MemoryStore
from hexa_worker.stop import StopSignals
from hexa_worker.subscriptions.plan import Loaded, Plan
from hexa_worker.telemetry.report import Report


@dataclass
class WorkerFixture:
    """One broker, and what became of the events on it."""

    store: MemoryStore = field(default_factory=MemoryStore)
    settled: list[Settlement] = field(default_factory=list)
    stuck: list[Delivery] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    suspects: Any = None
    grace_s: float = 5.0
    dedup: Dedup = field(default_factory=Dedup)
    claims: Any = None

    def emit(self, payload: Any, channel: str = "events", key: bytes | None = None) -> None:
        self.store.append(Message(channel=channel, payload=msgspec.json.encode(payload), key=key))
        self.store.wake()

    def emit_raw(self, payload: bytes, channel: str = "events") -> None:
        self.store.append(Message(channel=channel, payload=payload))
        self.store.wake()

    async def run(self, *plans: Plan, driver: Any = None, **how: Any) -> int:
        """Run until idle; the exit code."""
        with anyio.fail_after(20):
            return await self.serve(plans, StopSignals(), until_idle=True, driver=driver, **how)

    async def serve(self, plans: Sequence[Plan], stop: StopSignals, *, driver: Any = None, **how: Any) -> int:
        worker = WorkerConfig(
            name="test",
            handlers=(),
            shutdown_grace_s=self.grace_s,
            restart=RestartPolicy(max_restarts=2, initial_delay_s=0.0),
        )
        config = Config(path=Path("worker.toml"), file=File(worker=worker, broker=Memory(), dedup=self.dedup))
        return await app.serve(
            config,
            Loaded(
                plans=tuple(plans),
                lifespan=how.pop("lifespan", None),
                middlewares=how.pop("middlewares", ()),
                outcome_hooks=how.pop("outcome_hooks", ()),
            ),
            stop,
            app.ServeOptions(
                driver=driver or MemoryDriver(self.store),
                record=lambda _action, batch, _now_ms: self.settled.extend(batch),
                stuck=self.stuck.append,
                report=self.reports.append,
                suspects=self.suspects,
                claims=self.claims,
                **how,
            ),
        )

    @asynccontextmanager
    async def running(self, *plans: Plan, driver: Any = None, **how: Any) -> AsyncIterator[StopSignals]:
        """Run in the background; drained at the end."""
        stop = StopSignals()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:

                async def serve() -> None:
                    await self.serve(plans, stop, driver=driver, **how)

                group.start_soon(serve)
                yield stop
                stop.ask()

    def kinds(self) -> list[str]:
        """What was done, in order."""
        return [type(one).__name__ for one in self.settled]

    async def dead(self, action: str = "act") -> list[Delivery]:
        """The dead letters of an action."""
        return list(await MemoryDriver(self.store).browse(f"{action}.dlq", -1, 1000))
