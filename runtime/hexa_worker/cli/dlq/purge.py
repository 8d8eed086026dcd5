"""``hexa-worker dlq purge``."""

from typing import Any

import click

from hexa_worker.cli.dlq._common import Change, ask, conclude, count_of, dry_run, guarded
from hexa_worker.cli.dlq.open_ import open_dead_letters
from hexa_worker.cli.dlq.options import certain_filters, filtered
from hexa_worker.cli.progress import counting
from hexa_worker.cli.project import config_option, find_config, json_option
from hexa_worker.clock import SystemClock
from hexa_worker.dead_letters.dead_letters import DeadLetters, OnProgress, Tally, no_change
from hexa_worker.dead_letters.noting import recorded_in
from hexa_worker.lineage.opening import recording


@click.command("purge", short_help="Delete dead letters for good.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] [ID]...")
@config_option
@filtered
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--limit", type=click.IntRange(1), help="At most this many, the oldest.")
@click.option("--dry-run", "dry", is_flag=True, help="Only say what would happen.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def command(  # noqa: PLR0913 - one parameter per option
    arguments: tuple[str, ...],
    config_path: str | None,
    limit: int | None,
    *,
    everything: bool,
    dry: bool,
    yes: bool,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Delete dead letters for good. Asks before it does, unless ids are named or --yes is given.

    \b
    Example:
      hexa-worker dlq purge check-order.dlq-17
      hexa-worker dlq purge --action check-order --older-than 30d --dry-run
      hexa-worker dlq purge --older-than 30d --yes
    """
    path, ids = find_config(config_path, arguments)
    filters = certain_filters(ids, chosen, everything=everything)
    job = Change("purge", path, filters, limit, dry, yes or bool(ids), as_json)
    return guarded(job, lambda on_progress: _purge(job, on_progress))


async def _purge(job: Change, on_progress: OnProgress) -> int:
    clock = SystemClock()
    async with open_dead_letters(job.path, job.filters.action) as project:
        dead_letters = DeadLetters(project.driver, project.specs, clock)
        chosen = await dead_letters.choose(job.filters, job.limit)
        if job.dry_run:
            return dry_run(job, chosen)
        count = count_of(chosen)
        if count and not job.sure:
            ask(job.verb, count)
        with recording(project.config, clock) as recorder, counting(job.verb, count) as advance:
            on_change = no_change if recorder is None else recorded_in(recorder)

            def both(tally: Tally) -> None:
                on_progress(tally)
                advance(tally.handled)

            tally = await DeadLetters(project.driver, project.specs, clock, on_change).purge(chosen, both)
    return conclude(job, chosen, tally)
