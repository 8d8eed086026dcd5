"""``hexa-worker forget``: drop a group that no subscription has any more, so that the embedded file can shrink."""

from typing import TYPE_CHECKING

import click

from hexa_worker.cli.orphans import embedded_of, other_groups
from hexa_worker.cli.project import config_option, find_config, open_project, run_async
from hexa_worker.cli.terminal import write
from hexa_worker.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@click.command("forget", short_help="Drop what the embedded broker keeps for a removed subscription.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] [GROUP]")
@config_option
def command(arguments: tuple[str, ...], config_path: str | None) -> int:
    """Let the embedded file forget a group: its place, and the events that no other group has to read.

    Its retries and dead letters stay. Without GROUP it lists the groups that this worker.toml does not name; those of
    other workers that share the file are among them.

    \b
    Example:
      hexa-worker forget
      hexa-worker forget check-order
    """
    path, rest = find_config(config_path, arguments)
    if len(rest) > 1:
        raise click.UsageError(f"unexpected argument {rest[1]!r}", click.get_current_context())
    run_async(_forget, path, rest[0] if rest else None)
    return 0


async def _forget(path: "Path", name: str | None) -> None:
    async with open_project(path, declare=False) as project:
        if name in {spec.group for spec in project.specs}:
            raise ConfigError(f"group {name!r} is that of a subscription of this worker: remove that first")
        if name is None:
            for group in await other_groups(project.config, project.specs):
                write(f"{group.name}: {group.unread:,} events not read")
            return
        async with embedded_of(project.config) as driver:
            removed = await driver.forget(name)
        write(f"forgot {name}; {removed:,} events that nobody else reads are removed")
