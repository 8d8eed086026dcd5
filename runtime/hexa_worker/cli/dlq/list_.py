"""``hexa-worker dlq list``."""

from typing import Any

import click

from hexa_worker.cli import dead_letter_view as show
from hexa_worker.cli.dlq.open_ import open_dead_letters
from hexa_worker.cli.dlq.options import filtered, filters, no_more
from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.orphans import warn_of_orphans
from hexa_worker.cli.project import config_option, find_config, json_option, run_async
from hexa_worker.cli.terminal import fail
from hexa_worker.clock import SystemClock
from hexa_worker.dead_letters.dead_letters import DeadLetters
from hexa_worker.errors import DriverError

HUMAN_ROWS = 20


@click.command("list", short_help="List dead letters, those that look alike together.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@filtered
@click.option("--limit", type=click.IntRange(0), help=f"At most this many, the newest; on a terminal {HUMAN_ROWS}.")
@click.option("--groups", is_flag=True, help="Only those that look alike together: counts, first and last seen.")
@json_option
def command(
    arguments: tuple[str, ...],
    config_path: str | None,
    limit: int | None,
    *,
    groups: bool,
    as_json: bool,
    **chosen: Any,
) -> int:
    """List the dead letters of all subscriptions, oldest first, and above them the groups that look alike.

    \b
    Example:
      hexa-worker dlq list --action check-order --older-than 2h
      hexa-worker dlq list --groups
      hexa-worker dlq list --json | jq '.[].error'
    """
    path, rest = find_config(config_path, arguments)
    no_more(rest)
    meant = filters((), chosen)

    async def run() -> int:
        async with open_dead_letters(path, meant.action) as project:
            warn_of_orphans(project.config, project.specs)
            unread: dict[str, DriverError] = {}
            letters = DeadLetters(project.driver, project.specs, SystemClock()).letters(meant, unread)
            if groups and as_json:
                await show.groups_json(letters)
            elif as_json:
                await show.list_json(letters, limit)
            else:
                await show.list_human(letters, 0 if groups else HUMAN_ROWS if limit is None else limit)
            for action, error in unread.items():
                fail(f"the dead letters of {action} cannot be read: {error}", EXIT_FAILED)
        return EXIT_FAILED if unread else 0

    return run_async(run)
