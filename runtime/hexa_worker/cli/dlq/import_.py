"""``hexa-worker dlq import``."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from hexa_worker.cli.dlq._common import NAMED_FAILURES
from hexa_worker.cli.dlq.alone import alone
from hexa_worker.cli.dlq.open_ import open_dead_letters
from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.jsonl import DEFAULT_MAX_PAYLOAD, LINE_OVERHEAD, BadLine, LineReader
from hexa_worker.cli.progress import reading
from hexa_worker.cli.project import config_option, find_config, json_option, run_async
from hexa_worker.cli.terminal import fail, note, plural, write_json
from hexa_worker.core.message import Message
from hexa_worker.dead_letters.dead_letters import Tally
from hexa_worker.dead_letters.importing import Importer
from hexa_worker.dead_letters.jsonl import parse_line
from hexa_worker.errors import ConfigError, DriverUnavailable

STDIN = "-"
WRITTEN_LENGTH = 2
"""A line is at most so many times as long as the bytes it spells."""
Parsed = tuple[str, Message]


class Import(NamedTuple):
    """An import, as the command line said it."""

    path: Path
    file: str
    action: str | None
    as_json: bool

    @property
    def name(self) -> str:
        """How messages call the input."""
        return "standard input" if self.file == STDIN else self.file


class Came(NamedTuple):
    """How far an import came: the last line it dealt with, and the line that ended it."""

    line: int
    bad: BadLine | None


@click.command("import", short_help="Put exported dead letters back.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] FILE")
@config_option
@click.option("--action", help="Make them letters of this subscription, whatever they were.")
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, action: str | None, *, as_json: bool) -> int:
    """Put dead letters back that export has written; FILE - is standard input.

    Skips dead letters that already exist, so an interrupted import can simply be rerun.

    \b
    Example:
      hexa-worker dlq import letters.jsonl
      hexa-worker dlq import other/worker.toml letters.jsonl --action check-order-2
    """
    path, rest = find_config(config_path, arguments)
    if len(rest) != 1:
        raise click.UsageError("name one file, or - for standard input", click.get_current_context())
    job = Import(path, rest[0], action, as_json)
    tally = Tally()
    with _opened(job.file) as descriptor:
        try:
            came = run_async(_import, job, descriptor, tally)
        except (KeyboardInterrupt, DriverUnavailable):
            note(f"imported {plural(tally.done, 'dead letter')}; run it again to go on")
            raise
    return _conclude(job, tally, came)


@contextmanager
def _opened(file: str) -> Iterator[int]:
    try:
        descriptor = 0 if file == STDIN else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        if descriptor:
            os.close(descriptor)


async def _import(job: Import, descriptor: int, tally: Tally) -> Came:
    # the loop's own handler would wait for a read that blocks; this one interrupts it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    async with open_dead_letters(job.path, job.action) as project:
        parse = _parser(job.action, [spec.action for spec in project.specs])
        max_payload = project.driver.capabilities.max_payload or DEFAULT_MAX_PAYLOAD
        lines = LineReader(descriptor, parse, WRITTEN_LENGTH * max_payload + LINE_OVERHEAD)
        importer = Importer(project.driver, project.specs, tally)
        with alone(project.config), reading(lines.size, job.name, "dead letters") as advance:
            while (batch := lines.read_batch()) is not None:
                await importer.put(batch.items, batch.numbers)
                advance(lines.place, tally.handled)
                if batch.bad is not None:
                    return Came(batch.read_to, batch.bad)
    return Came(lines.number, None)


def _parser(action: str | None, actions: list[str]) -> Callable[[bytes, int], Parsed]:
    def parse(line: bytes, number: int) -> Parsed:
        try:
            named, record = parse_line(line)
        except ValueError as error:
            raise BadLine(number, str(error)) from None
        if action is None and named not in actions:
            raise BadLine(number, f"there is no action {named!r} (one of {', '.join(sorted(actions))}, or --action)")
        return action or named, record

    return parse


def _conclude(job: Import, tally: Tally, came: Came) -> int:
    if job.as_json:
        counts = {"imported": tally.done, "already": tally.already, "refused": tally.refused}
        write_json({**counts, "lines": came.line, "bad_line": None if came.bad is None else came.bad.number})
    for error in tally.errors[:NAMED_FAILURES]:
        note(f"{job.name}: {error}")
    if came.bad is not None:
        fail(f"{job.name}: {came.bad}", EXIT_FAILED)
    there = f"; {tally.already:,} were there already" if tally.already else ""
    note(f"imported and confirmed: {plural(tally.done, 'dead letter')} (lines 1 to {came.line}){there}")
    if came.bad is not None:
        note("mend the line and run it again: what is there is passed over")
    return EXIT_FAILED if came.bad is not None or tally.refused else 0
