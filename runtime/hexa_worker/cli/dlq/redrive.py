"""``hexa-worker dlq redrive``."""

from contextlib import closing
from inspect import iscoroutinefunction
from typing import Any, NamedTuple

import click

from hexa_worker.cli.dlq._common import Change, ask, conclude, dry_run, guarded
from hexa_worker.cli.dlq.alone import alone
from hexa_worker.cli.dlq.open_ import open_dead_letters
from hexa_worker.cli.dlq.options import Rate, certain_filters, filtered
from hexa_worker.cli.progress import counting
from hexa_worker.cli.project import Project, config_option, find_config, json_option
from hexa_worker.cli.terminal import clean, iso, local, note, plural
from hexa_worker.clock import SystemClock
from hexa_worker.config.model import Config
from hexa_worker.dead_letters.dead_letters import OnProgress, Tally, no_change
from hexa_worker.dead_letters.editing import Hook
from hexa_worker.dead_letters.noting import recorded_in
from hexa_worker.dead_letters.redriving import Copy, Handled, RedrivePlan, Redriver, Withheld
from hexa_worker.errors import ConfigError
from hexa_worker.lineage.finding import handled_redrives
from hexa_worker.lineage.opening import StoreError, open_store, recording
from hexa_worker.subscriptions.modules import named_function


class How(NamedTuple):
    """What only a redrive is told."""

    rate: float | None
    transform: str | None
    force: bool


@click.command("redrive", short_help="Send dead letters round again.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] [ID]...")
@config_option
@filtered
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--limit", type=click.IntRange(1), help="At most this many, the oldest.")
@click.option("--rate", type=Rate(), metavar="N/s", help="At most so many per second.")
@click.option("--transform", metavar="MODULE:FUNCTION", help="Change each first, by a function of yours.")
@click.option("--force", is_flag=True, help="Also those whose failure was seen again after a redrive.")
@click.option("--dry-run", "dry", is_flag=True, help="Only say what would happen.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def command(  # noqa: PLR0913 - one parameter per option
    arguments: tuple[str, ...],
    config_path: str | None,
    limit: int | None,
    rate: float | None,
    transform: str | None,
    *,
    everything: bool,
    force: bool,
    dry: bool,
    yes: bool,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Send dead letters round again.

    They go to the first retry of their own subscription, so no other subscription of the same channel sees them
    twice. Each leaves the dead-letter channel only after the broker has confirmed its new record; a redrive may be
    interrupted and started again.

    Withheld are letters whose failure still happens: one that looked alike was redriven and died of it again.

    \b
    Example:
      hexa-worker dlq redrive check-order.dlq-17 check-order.dlq-18
      hexa-worker dlq redrive --error TimeoutError --newer-than 1d --dry-run
      hexa-worker dlq redrive --action check-order --transform mending:add_currency
      hexa-worker dlq redrive --all --yes --rate 100/s
    """
    path, ids = find_config(config_path, arguments)
    filters = certain_filters(ids, chosen, everything=everything)
    job = Change("redrive", path, filters, limit, dry, yes or not everything, as_json)
    return guarded(job, lambda on_progress: _redrive(job, How(rate, transform, force), on_progress))


async def _redrive(job: Change, how: How, on_progress: OnProgress) -> int:
    async with open_dead_letters(job.path, job.filters.action) as project:
        if job.dry_run:
            return await _redrive_from(project, job, how, on_progress)
        with alone(project.config):  # from before it is decided what to send
            return await _redrive_from(project, job, how, on_progress)


async def _redrive_from(project: Project, job: Change, how: How, on_progress: OnProgress) -> int:
    clock = SystemClock()
    hook = None if how.transform is None else _hook(how.transform, project.config)
    planner = Redriver(project.driver, project.specs, clock, handled=_memory(project.config))
    plan = await planner.plan(job.filters, job.limit, force=how.force)
    _tell_withheld(plan.withheld)
    if job.dry_run:
        return dry_run(job, plan.chosen, **_plain(plan.withheld))
    if plan.count and not job.sure:
        ask(job.verb, plan.count)
    with recording(project.config, clock) as recorder, counting(job.verb, plan.count) as advance:
        on_change = no_change if recorder is None else recorded_in(recorder)

        def both(tally: Tally) -> None:
            on_progress(tally)
            advance(tally.handled)

        redriver = Redriver(project.driver, project.specs, clock, on_change)
        tally = await redriver.run(plan, both, how.rate, hook)
    return _conclude(job, plan, tally)


def _hook(name: str, config: Config) -> Hook:
    hook: Hook = named_function(name, config.folder, "--transform")
    if iscoroutinefunction(hook):
        raise ConfigError(f'"{name}" is async', where="--transform", hint="write a plain function that takes a Draft")
    return hook


def _conclude(job: Change, plan: RedrivePlan, tally: Tally) -> int:
    if tally.already:
        note(f"removed {plural(tally.already, 'dead letter')} that an interrupted redrive had sent already")
    if tally.untouched:
        note(f"left {plural(tally.untouched, 'dead letter')} untouched")
    waiting = sum(one.count for one in plan.withheld)
    more = {"already": tally.already, "untouched": tally.untouched}
    return conclude(job, plan.chosen, tally, waiting, **more, **_plain(plan.withheld))


def _memory(config: Config) -> Handled:
    """What the lineage store remembers of redriven records that were handled."""

    def handled(source: str, since_ms: int) -> frozenset[Copy]:
        try:
            store = open_store(config)
            if store is None:
                return frozenset()
            with closing(store):
                return handled_redrives(store, source, since_ms)
        except StoreError as error:
            note(f"lineage cannot be read, what an interrupted redrive had sent may be sent again: {error}")
            return frozenset()

    return handled


def _tell_withheld(withheld: list[Withheld]) -> None:
    for one in withheld:
        witness = one.witness
        note(
            f"withheld {plural(one.count, 'dead letter')} of {one.action}: {one.fingerprint} still fails"
            f" ({clean(witness.id)} was redriven and died of it again, {local(witness.dead_at_ms)}:"
            f" {clean(witness.error)}); mend it, then say --force"
        )


def _plain(withheld: list[Withheld]) -> dict[str, Any]:
    return {
        "withheld": [
            {
                "action": one.action,
                "fingerprint": one.fingerprint,
                "count": one.count,
                "died_again": one.witness.id,
                "died_again_at": iso(one.witness.dead_at_ms),
                "error": one.witness.error,
            }
            for one in withheld
        ]
    }
