"""``hexa-worker lag``: what each subscription still has to do."""

from collections.abc import Mapping
from pathlib import Path

import click

from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.orphans import warn_of_groups, warn_of_orphans
from hexa_worker.cli.project import config_option, json_option, only_config, open_project, run_async
from hexa_worker.cli.terminal import console, fail, iso, note, plural, write_json
from hexa_worker.config.load import load_config
from hexa_worker.core.controls import Pause
from hexa_worker.drivers.base import Backlog, SubscriptionSpec
from hexa_worker.errors import DriverError
from hexa_worker.processes.control.state import read_state
from hexa_worker.processes.parked import counts, of_config
from hexa_worker.processes.state_files import StateFiles

AT_ONCE = 8
"""So many subscriptions are measured at the same time."""


@click.command("lag", short_help="Show what each subscription still has to do.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """Show for each subscription how many events are ready, wait for a retry, are in hand, and are dead letters.

    It looks from outside: no worker is disturbed, and none need run. What a broker does not tell apart counts as
    ready (docs/drivers.md).

    \b
    Example:
      hexa-worker lag
      hexa-worker lag --json
    """
    path = only_config(config_path, arguments)
    found, off = run_async(_lag, path)
    parked = counts(of_config(path))
    paused = _paused(path)
    if as_json:
        write_json(
            [_plain(action, backlog, parked.get(action, 0), paused.get(action)) for action, backlog in found.items()]
        )
    else:
        _draw({action: backlog for action, backlog in found.items() if isinstance(backlog, Backlog)})
        for action, count in parked.items():
            note(f"{action}: {count:,} of those in hand are parked, see dlq park list")
        for action, reason in off.items():
            note(f"{action} is {reason}")
        for action, pause in paused.items():
            part = "" if pause.whole else f" with {plural(len(pause.keys), 'key')}"
            note(f"{action} is paused{part}, see ctl resume")
    failures = {action: error for action, error in found.items() if isinstance(error, DriverError)}
    for action, error in failures.items():
        fail(f"{action} cannot be measured: {error}", EXIT_FAILED)
    return EXIT_FAILED if failures else 0


async def _lag(path: Path) -> tuple[dict[str, Backlog | DriverError], Mapping[str, str]]:
    """What each subscription has left, and which of them do not run."""
    import anyio  # noqa: PLC0415 - lazy by design

    found: dict[str, Backlog | DriverError] = {}
    async with open_project(path, declare=False) as project:
        warn_of_orphans(project.config, project.specs)
        await warn_of_groups(project.config, project.specs)
        room = anyio.CapacityLimiter(AT_ONCE)

        async def measure(spec: SubscriptionSpec) -> None:
            async with room:
                try:
                    found[spec.action] = await project.driver.backlog(spec)
                except DriverError as error:
                    found[spec.action] = error

        async with anyio.create_task_group() as tasks:
            for spec in project.specs:
                tasks.start_soon(measure, spec)
        return {spec.action: found[spec.action] for spec in project.specs}, project.off


def _paused(path: Path) -> Mapping[str, Pause]:
    """What an operator has paused of the worker on this machine, also while it does not run."""
    config = load_config(path)
    worker = config.file.worker
    return read_state(StateFiles.of(config.folder / worker.state_dir, worker.name).control).paused


def _plain(action: str, backlog: Backlog | DriverError, parked: int, pause: Pause | None) -> dict[str, object]:
    if isinstance(backlog, DriverError):
        return {"action": action, "error": str(backlog)}
    return {
        "action": action,
        "ready": backlog.ready,
        "delayed": backlog.delayed,
        "leased": backlog.leased,
        "parked": parked,
        "paused": pause is not None and pause.whole,
        "dead_letters": backlog.dead_letters,
        "next_due": iso(backlog.next_due_ms),
    }


def _draw(found: dict[str, Backlog]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - lazy by design
    from rich.table import Table  # noqa: PLC0415 - lazy by design

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    table.add_column("action", style="bold cyan")
    for name in ("ready", "delayed", "in hand", "dead letters"):
        table.add_column(name, justify="right")
    for action, backlog in found.items():
        counts = (backlog.ready, backlog.delayed, backlog.leased, backlog.dead_letters or 0)
        table.add_row(action, *[f"{count:,}" for count in counts])
    console().print(table)
