"""``hexa-worker dlq``: the dead-letter desk on the command line."""

import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from hexa_worker.cli import letters as show
from hexa_worker.cli.project import config_option, find_config, json_option, open_project, run_async
from hexa_worker.cli.terminal import fail, note, plural, write_json
from hexa_worker.clock import SystemClock
from hexa_worker.desk.desk import Chosen, Desk, Tally, Told
from hexa_worker.desk.letters import DeadLetter, Filters
from hexa_worker.desk.noting import noted
from hexa_worker.desk.parse import parse_duration, parse_rate
from hexa_worker.errors import ConfigError, DriverUnavailable
from hexa_worker.lineage.opening import recording

EXIT_FAILED = 1
NAMED_REFUSALS = 5
HUMAN_ROWS = 20


class _Seconds(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Rate(click.ParamType[float]):
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_rate(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_FILTERS = (
    click.option("--action", help="Of this subscription."),
    click.option("--error", metavar="CLASS", help="Whose error has this class."),
    click.option("--reason", help="failed, timeout, undecodable, crashed or asked."),
    click.option("--fingerprint", help="Whose failures look alike; see list."),
    click.option("--root", "root_id", metavar="ID", help="Of this event or of its tree."),
    click.option("--older-than", type=_Seconds(), metavar="AGE", help="Dead for longer than this, as 2h."),
    click.option("--newer-than", type=_Seconds(), metavar="AGE", help="Dead for less long than this."),
)


def _filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_FILTERS):
        function = option(function)
    return function


def _filters(ids: tuple[str, ...], chosen: dict[str, Any]) -> Filters:
    older, newer = chosen.pop("older_than"), chosen.pop("newer_than")
    return Filters(
        ids=frozenset(ids),
        older_than_ms=None if older is None else round(older * 1000),
        newer_than_ms=None if newer is None else round(newer * 1000),
        **chosen,
    )


@asynccontextmanager
async def _desk(path: Path, action: str | None, *, changes: bool = False) -> AsyncIterator[Desk]:
    """The desk of a project; when it `changes` something, what it does becomes part of the lineage."""
    async with open_project(path) as project:
        actions = [spec.action for spec in project.specs]
        if action is not None and action not in actions:
            raise ConfigError(f"there is no action {action!r}", hint=f"one of {', '.join(sorted(actions))}")
        clock = SystemClock()
        if not changes:
            yield Desk(project.driver, project.specs, clock)
            return
        with recording(project.config, clock) as recorder:
            yield Desk(project.driver, project.specs, clock, None if recorder is None else noted(recorder))


@click.group("dlq", short_help="List, show, redrive or purge dead letters.")
def command() -> None:
    """List, show, redrive or purge dead letters.

    \b
    Example:
      hexa-worker dlq list
      hexa-worker dlq show check-order.dlq-17 --payload
      hexa-worker dlq redrive --action check-order --error TimeoutError --rate 50/s
    """


@command.command("list", short_help="List dead letters, those that look alike together.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@_filtered
@click.option("--limit", type=click.IntRange(0), help=f"At most this many, the newest; on a terminal {HUMAN_ROWS}.")
@json_option
def list_letters(
    arguments: tuple[str, ...], config_path: str | None, limit: int | None, *, as_json: bool, **chosen: Any
) -> int:
    """List the dead letters of all subscriptions, oldest first.

    \b
    Example:
      hexa-worker dlq list --action check-order --older-than 2h
      hexa-worker dlq list --json | jq '.[].error'
    """
    path, rest = find_config(config_path, arguments)
    if rest:
        raise click.UsageError(f"unexpected argument {rest[0]!r}", click.get_current_context())
    filters = _filters((), chosen)

    async def run() -> int:
        async with _desk(path, filters.action) as desk:
            if as_json:
                await show.list_json(desk.letters(filters), limit)
            else:
                await show.list_human(desk.letters(filters), HUMAN_ROWS if limit is None else limit)
        return 0

    return run_async(run)


@command.command("show", short_help="Show one dead letter, whole.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] ID")
@config_option
@click.option("--payload", "with_payload", is_flag=True, help="Show the payload too: as JSON, or as a hex dump.")
@json_option
def show_letter(arguments: tuple[str, ...], config_path: str | None, *, with_payload: bool, as_json: bool) -> int:
    """Show everything that is known of one dead letter. Its payload is shown only on request.

    \b
    Example:
      hexa-worker dlq show check-order.dlq-17 --payload
    """
    path, rest = find_config(config_path, arguments)
    if len(rest) != 1:
        raise click.UsageError("name one dead letter, as dlq list shows it", click.get_current_context())

    async def run() -> DeadLetter | None:
        async with _desk(path, None) as desk:
            return await desk.find(rest[0])

    letter = run_async(run)
    if letter is None:
        return fail(f"there is no dead letter {rest[0]!r}", EXIT_FAILED)
    if as_json:
        write_json(show.whole(letter, with_payload=with_payload))
    else:
        show.show_human(letter, with_payload=with_payload)
    return 0


class Job(NamedTuple):
    """A redrive or purge, as the command line said it."""

    verb: str
    path: Path
    filters: Filters
    limit: int | None
    dry_run: bool
    sure: bool
    as_json: bool


@command.command("redrive", short_help="Send dead letters round again.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] [ID]...")
@config_option
@_filtered
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--limit", type=click.IntRange(1), help="At most this many, the oldest.")
@click.option("--rate", type=_Rate(), metavar="N/s", help="At most so many per second.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def redrive(  # noqa: PLR0913 - one parameter per option
    arguments: tuple[str, ...],
    config_path: str | None,
    limit: int | None,
    rate: float | None,
    *,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Send dead letters round again.

    They go to the first retry of their own subscription, so no other subscription of the same channel sees them
    twice. Each leaves the dead-letter channel only after the broker has confirmed its new record; a redrive may be
    interrupted and started again.

    \b
    Example:
      hexa-worker dlq redrive check-order.dlq-17 check-order.dlq-18
      hexa-worker dlq redrive --error TimeoutError --newer-than 1d --dry-run
      hexa-worker dlq redrive --all --yes --rate 100/s
    """
    path, ids = find_config(config_path, arguments)
    filters = _meant(ids, chosen, everything=everything)
    job = Job("redrive", path, filters, limit, dry_run, yes or not everything, as_json)
    return _do(job, lambda desk, what, told: desk.redrive(what, told, rate))


@command.command("purge", short_help="Delete dead letters for good.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] [ID]...")
@config_option
@_filtered
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--limit", type=click.IntRange(1), help="At most this many, the oldest.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def purge(  # noqa: PLR0913 - one parameter per option
    arguments: tuple[str, ...],
    config_path: str | None,
    limit: int | None,
    *,
    everything: bool,
    dry_run: bool,
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
    filters = _meant(ids, chosen, everything=everything)
    job = Job("purge", path, filters, limit, dry_run, yes or bool(ids), as_json)
    return _do(job, lambda desk, what, told: desk.purge(what, told))


def _meant(ids: tuple[str, ...], chosen: dict[str, Any], *, everything: bool) -> Filters:
    filters = _filters(ids, chosen)
    if filters.empty and not everything:
        raise click.UsageError("say which: ids, filters or --all", click.get_current_context())
    return filters


Work = Callable[[Desk, list[Chosen], Told], Coroutine[Any, Any, Tally]]


def _do(job: Job, work: Work) -> int:
    tally = Tally()

    def told(now: Tally) -> None:
        nonlocal tally
        tally = now

    try:
        return run_async(_work, job, work, told)
    except KeyboardInterrupt:
        note(f"{_past(job.verb)} {plural(tally.done, 'dead letter')} before the interruption; run it again to go on")
        raise
    except DriverUnavailable:
        note(f"{_past(job.verb)} {plural(tally.done, 'dead letter')}; run it again to go on")
        raise


async def _work(job: Job, work: Work, told: Told) -> int:
    async with _desk(job.path, job.filters.action, changes=not job.dry_run) as desk:
        chosen = await desk.choose(job.filters, job.limit)
        count = sum(len(one.offsets) for one in chosen)
        if job.dry_run:
            return _dry_run(job, chosen, count)
        if count and not job.sure:
            _ask(job.verb, count)
        with show.progress(job.verb, count) as advance:

            def both(tally: Tally) -> None:
                told(tally)
                advance(tally.done + tally.refused)

            tally = await work(desk, chosen, both)
    return _conclude(job, chosen, count, tally)


def _ask(verb: str, count: int) -> None:
    question = f"{verb} {plural(count, 'dead letter')}?"
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"{question} Say --yes where nobody can be asked", click.get_current_context(silent=True)
        )
    click.confirm(question, abort=True, err=True)


def _past(verb: str) -> str:
    return {"redrive": "redrove", "purge": "purged"}[verb]


def _dry_run(job: Job, chosen: list[Chosen], count: int) -> int:
    by_action = {one.spec.action: len(one.offsets) for one in chosen}
    if job.as_json:
        write_json({"dry_run": True, "found": count, "actions": by_action})
        return 0
    note(f"would {job.verb} {plural(count, 'dead letter')}")
    for action, number in by_action.items():
        note(f"  {action}: {number:,}")
    return 0


def _conclude(job: Job, chosen: list[Chosen], count: int, tally: Tally) -> int:
    missing = sorted(job.filters.ids) if job.filters.ids and count < len(job.filters.ids) and not job.limit else []
    if job.as_json:
        by_action = {one.spec.action: len(one.offsets) for one in chosen}
        write_json({"found": count, _past(job.verb): tally.done, "refused": tally.refused, "actions": by_action})
    else:
        note(f"{_past(job.verb)} {plural(tally.done, 'dead letter')}")
    for error in tally.errors[:NAMED_REFUSALS]:
        note(f"refused: {error}")
    if missing:
        return fail(f"only {count} of {len(missing)} named dead letters were there", EXIT_FAILED)
    return EXIT_FAILED if tally.refused else 0
