"""``hexa-worker dlq park``: deliveries whose retry or dead-letter record the broker refuses."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.project import config_option, find_config, json_option
from hexa_worker.cli.terminal import clean, console, fail, note, write_json
from hexa_worker.errors import ConfigError
from hexa_worker.processes.parked import ParkedCommand, ParkedEntry, ParkedState, Told, lives, of_config, states, write

PATIENCE_S = 10.0
LOOK_S = 0.05


@click.group("park", short_help="List, retry or drop deliveries that are parked.")
def command() -> None:
    """List, retry or drop what is parked: deliveries whose retry or dead-letter record the broker refuses.

    They are in the memory of running workers, on this machine; each is tried again every 30 s anyway.

    \b
    Example:
      hexa-worker dlq park list
      hexa-worker dlq park retry --all
      hexa-worker dlq park drop orders-0-17 --action bill
    """


@command.command("list", short_help="List what is parked.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@json_option
def listing(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """List what the running processes have parked, and why."""
    path, rest = find_config(config_path, arguments)
    if rest:
        raise click.UsageError(f"unexpected argument {rest[0]!r}", click.get_current_context())
    found = [state for _, state in states(of_config(path))]
    entries = [entry for state in found for entry in state.entries]
    if as_json:
        write_json([msgspec.structs.asdict(entry) for entry in entries])
        return 0
    _draw(entries)
    total = sum(sum(state.count.values()) for state in found)
    note(f"{total:,} parked" if total else "nothing is parked")
    return 0


def _meant(function: Callable[..., int]) -> Callable[..., int]:
    """The parameters that say which of them."""
    for parameter in (
        click.option("--all", "everything", is_flag=True, help="All of them."),
        click.option("--action", help="Of this subscription."),
        config_option,
        click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] [ID]..."),
    ):
        function = parameter(function)
    return function


@command.command("retry", short_help="Ask the broker again now.")
@_meant
def retry(arguments: tuple[str, ...], config_path: str | None, action: str | None, *, everything: bool) -> int:
    """Ask the broker again now for the records of what is parked."""
    return _order("retry", config_path, arguments, action, everything=everything)


@command.command("drop", short_help="Acknowledge without a record.")
@_meant
def drop(arguments: tuple[str, ...], config_path: str | None, action: str | None, *, everything: bool) -> int:
    """Acknowledge what is parked without a retry or dead letter: the events are given up."""
    return _order("drop", config_path, arguments, action, everything=everything)


def _order(
    do: Told, config_path: str | None, arguments: tuple[str, ...], action: str | None, *, everything: bool
) -> int:
    path, ids = find_config(config_path, arguments)
    if not ids and not everything:
        raise click.UsageError("say which: ids or --all", click.get_current_context())
    folder = of_config(path)
    mistake = _mistake(ids, action, [state for _, state in states(folder)])
    if mistake:
        return fail(mistake, EXIT_FAILED)
    told: dict[Path, int] = {}
    try:
        for file, state in states(folder):
            told[file] = state.pid
            write(file, ParkedCommand(do=do, ids=list(ids) or None, action=action))
        deadline = time.monotonic() + PATIENCE_S
        while any(file.exists() for file in told):
            if time.monotonic() > deadline:
                return fail("a worker process does not answer", EXIT_FAILED)
            time.sleep(LOOK_S)
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be written: {error.strerror}") from error
    finally:
        for file in told:
            file.unlink(missing_ok=True)
    if not told:
        note("nothing is parked")
        return 0
    if not all(map(lives, told.values())):
        return fail("a worker process has ended meanwhile: see what is parked now", EXIT_FAILED)
    note("the broker is asked again" if do == "retry" else "dropped")
    return 0


def _mistake(ids: Sequence[str], action: str | None, found: Sequence[ParkedState]) -> str:
    """What is wrong with a choice; empty: nothing."""
    of_action = "" if action is None else f" for {action}"
    for one in ids:
        actions = {
            entry.action
            for state in found
            for entry in state.entries
            if entry.id == one and action in (None, entry.action)
        }
        if not actions:
            return f"{one!r} is not parked{of_action}"
        if len(actions) > 1:
            return f"{one!r} is parked for {' and '.join(sorted(actions))}: say which with --action"
    if action is not None and not any(action in state.count for state in found):
        return f"nothing is parked{of_action}"
    return ""


def _draw(entries: list[ParkedEntry]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - lazy by design
    from rich.table import Table  # noqa: PLC0415 - lazy by design

    if not entries:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    for name in ("id", "action", "refused", "bytes", "reason"):
        table.add_column(name, overflow="fold")
    for one in entries:
        table.add_row(*[clean(text) for text in (one.id, one.action, one.refused, f"{one.size:,}", one.reason)])
    console().print(table)
