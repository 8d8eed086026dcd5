"""What redrive and purge have in common: asking, counting, saying how far they came, going on after an interruption."""

import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.terminal import fail, note, plural, write_json
from hexa_worker.dead_letters.dead_letters import OnProgress, Tally
from hexa_worker.dead_letters.filters import Filters
from hexa_worker.dead_letters.reading import Chosen
from hexa_worker.errors import DriverUnavailable

NAMED_FAILURES = 5


class Change(NamedTuple):
    """A redrive or purge, as the command line said it."""

    verb: str
    path: Path
    filters: Filters
    limit: int | None
    dry_run: bool
    sure: bool
    as_json: bool

    @property
    def did(self) -> str:
        return {"redrive": "redrove", "purge": "purged"}[self.verb]


def guarded(job: Change, run: Callable[[OnProgress], Coroutine[Any, Any, int]]) -> int:
    """Run something on an event loop; when it is broken off, say how far it came."""
    from hexa_worker.cli.project import run_async  # noqa: PLC0415 - lazy by design

    tally = Tally()

    def on_progress(now: Tally) -> None:
        nonlocal tally
        tally = now

    try:
        return run_async(run, on_progress)
    except KeyboardInterrupt:
        note(f"{job.did} {plural(tally.done, 'dead letter')} before the interruption; run it again to go on")
        raise
    except DriverUnavailable:
        note(f"{job.did} {plural(tally.done, 'dead letter')}; run it again to go on")
        raise


def count_of(chosen: Sequence[Chosen]) -> int:
    """How many letters are chosen."""
    return sum(len(one.offsets) for one in chosen)


def by_action(chosen: Sequence[Chosen]) -> dict[str, int]:
    """How many letters of each subscription are chosen."""
    return {one.spec.action: len(one.offsets) for one in chosen}


def ask(verb: str, count: int) -> None:
    """Ask whether to go on; ends the command if not."""
    question = f"{verb} {plural(count, 'dead letter')}?"
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"{question} Say --yes where nobody can be asked", click.get_current_context(silent=True)
        )
    click.confirm(question, abort=True, err=True)


def dry_run(job: Change, chosen: Sequence[Chosen], **more: Any) -> int:
    """Say what would happen; returns the exit code."""
    count = count_of(chosen)
    if job.as_json:
        write_json({"dry_run": True, "found": count, "actions": by_action(chosen), **more})
        return 0
    note(f"would {job.verb} {plural(count, 'dead letter')}")
    for action, number in by_action(chosen).items():
        note(f"  {action}: {number:,}")
    return 0


def conclude(job: Change, chosen: Sequence[Chosen], tally: Tally, left: int = 0, **more: Any) -> int:
    """Say what was done; returns the exit code.

    Args:
        job: what was asked.
        chosen: the letters that were meant.
        tally: what became of them.
        left: letters that were withheld.
        more: for the JSON object.
    """
    count = count_of(chosen)
    if job.as_json:
        counts = {"found": count, job.did: tally.done, "refused": tally.refused}
        write_json({**counts, "actions": by_action(chosen), **more})
    else:
        note(f"{job.did} {plural(tally.done, 'dead letter')}")
    for error in tally.errors[:NAMED_FAILURES]:
        note(f"left: {error}")
    if len(tally.errors) > NAMED_FAILURES:
        note(f"left: {len(tally.errors) - NAMED_FAILURES:,} more")
    named = len(job.filters.ids)
    if count + left < named and not job.limit:
        return fail(f"only {count + left} of {named} named dead letters were there", EXIT_FAILED)
    return EXIT_FAILED if tally.refused or tally.untouched or left else 0
