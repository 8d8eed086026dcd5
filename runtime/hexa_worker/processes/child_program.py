"""What a child really runs: the app, its lineage recorded beside it."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio
from msgspec.structs import replace

from hexa_worker.actors.supervisor import Supervisor
from hexa_worker.app import ServeOptions, serve
from hexa_worker.config.load import load_config
from hexa_worker.config.model import Config
from hexa_worker.core.controls import Controls
from hexa_worker.core.settlement import Postponed, Released, Settlement
from hexa_worker.drivers.opening import off_specs, specs
from hexa_worker.lineage.opening import recording
from hexa_worker.processes.child_context import ChildContext, Serve
from hexa_worker.processes.dumping import Dumper
from hexa_worker.processes.ladders import file_of, orphans, remember
from hexa_worker.processes.parked import ParkedFiles, folder_of
from hexa_worker.subscriptions.lifespans import telling
from hexa_worker.subscriptions.loader import load_plans
from hexa_worker.subscriptions.plan import Loaded
from hexa_worker.telemetry.configure import set_level

log = logging.getLogger("hexa_worker.processes")


class AppProgram:
    """The program of a child."""

    def load(self, path: Path) -> Config:
        """Read worker.toml. Raises ConfigError."""
        return load_config(path)

    def prepare(self, session: ChildContext) -> Serve:
        """Import the handlers. Raises ConfigError."""
        loaded = load_plans(session.config).only(session.arguments.only)
        _remember_ladders(session, loaded)
        if loaded.lifespan is not None:
            loaded = replace(loaded, lifespan=telling(loaded.lifespan))
        return partial(_serve, session, loaded)


async def _serve(session: ChildContext, loaded: Loaded) -> int:
    suspects = session.suspects
    off = {one.plan.action: one.reason for one in loaded.off}
    with recording(session.config) as recorder:

        def record(action: str, settlements: Sequence[Settlement], now_ms: int) -> None:
            if recorder is not None:
                recorder.record(action, settlements, now_ms)
            if suspects.any():
                done = (one.delivery for one in settlements if not isinstance(one, Released | Postponed))
                suspects.settled(action, ((delivery.source, delivery.offset) for delivery in done))

        arguments = session.arguments
        options = ServeOptions(
            until_idle=arguments.until_idle,
            journal=session.journal,
            suspects=session.suspects,
            stuck=session.stuck,
            report=lambda report: session.report(replace(report, off=off)),
            record=record,
            preflight=arguments.preflight,
            proven=arguments.proven,
            beside=partial(_beside, session),
            controls=session.orders.controls,
        )
        return await serve(session.config, loaded, session.stop, options)


async def _beside(session: ChildContext, supervisor: Supervisor) -> None:
    """What a process does besides, as long as its subscriptions run."""
    session.orders.dump = Dumper(supervisor).take
    parked = ParkedFiles(folder_of(session.arguments.state_dir, session.arguments.name), session.arguments.slot)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(parked.run, supervisor)
        tasks.start_soon(session.orders.run, partial(_control, supervisor))


def _control(supervisor: Supervisor, controls: Controls) -> None:
    if controls.log_level is not None:
        set_level(controls.log_level)
    supervisor.control(controls)


def _remember_ladders(session: ChildContext, loaded: Loaded) -> None:
    """Note whose retries and dead letters these are; the first process says what nobody reads any more."""
    path = file_of(session.arguments.state_dir, session.arguments.name)
    wanted = (*specs(loaded), *off_specs(loaded))
    if session.arguments.preflight:
        for text in orphans(path, wanted):
            log.warning("%s", text)
    remember(path, wanted)
