"""Emitting a whole input: batch by batch, each confirmed before the next, resumable wherever it ends."""

import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hexa_worker.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED
from hexa_worker.cli.jsonl import EventBatch, event_lines
from hexa_worker.cli.progress import reading
from hexa_worker.cli.project import CONFIG_VARIABLE, DEFAULT_FILE, run_async
from hexa_worker.cli.terminal import fail, note, plural
from hexa_worker.errors import DriverError
from hexa_worker.subscriptions.api import Event

if TYPE_CHECKING:
    from hexa_worker.event_encoder import EventEncoder

NAMED_REJECTIONS = 5
"""Rejected lines that are named one by one; the others are counted."""


@asynccontextmanager
async def open_emitter(path: Path) -> "AsyncIterator[tuple[EventEncoder, int | None]]":
    """An emitter to the broker of worker.toml, and the largest payload that broker takes.

    Handler modules are imported only where the broker does not know a channel, see `Declaring`.
    """
    from hexa_worker.cli.declaring import Declaring  # noqa: PLC0415 - lazy by design
    from hexa_worker.clock import SystemClock  # noqa: PLC0415 - lazy by design
    from hexa_worker.codecs import encode  # noqa: PLC0415 - lazy by design
    from hexa_worker.config.load import load_config  # noqa: PLC0415 - lazy by design
    from hexa_worker.drivers.opening import make_driver, opened  # noqa: PLC0415 - lazy by design
    from hexa_worker.event_encoder import EventEncoder  # noqa: PLC0415 - lazy by design

    config = load_config(path)
    async with opened(make_driver(config)) as driver:
        yield EventEncoder(Declaring(driver, config), SystemClock(), encode), driver.capabilities.max_payload


class Input(NamedTuple):
    """What is emitted, as the command line said it; a resuming command is made of it."""

    path: Path
    config_path: str | None
    channel: str | None
    file: str
    from_line: int

    @property
    def name(self) -> str:
        """How messages call the input."""
        return "standard input" if self.file == "-" else self.file

    def resume(self, line: int) -> str:
        """The command that goes on at `line`."""
        found_here = self.path == Path.cwd() / DEFAULT_FILE and CONFIG_VARIABLE not in os.environ
        where = None if found_here else str(self.path)
        parts = ["hexa-worker", "emit", where, self.channel, "--file", self.file, "--from-line", str(line)]
        return shlex.join([part for part in parts if part is not None])


class FileEmission:
    """One input on its way to the broker.

    Args:
        source: what the command line said.
        descriptor: the open input.
        as_json: print an object for each event.
        quiet: print no ids.
    """

    def __init__(self, source: Input, descriptor: int, *, as_json: bool, quiet: bool) -> None:
        self._source = source
        self._descriptor = descriptor
        self._as_json = as_json
        self._silent = quiet or (sys.stdout.isatty() and not as_json)
        self._emitted = 0
        self._rejected = 0
        self._done_to = source.from_line - 1
        self._under_way: EventBatch[Event] | None = None

    def run(self) -> int:
        """Emit everything; returns the exit code. Says on stderr what was emitted, and how to go on."""
        began = perf_counter()
        try:
            failed = run_async(self._emit_all)
        except KeyboardInterrupt:
            return self._broken_off("interrupted", EXIT_INTERRUPTED)
        except DriverError as error:
            return self._broken_off(str(error), EXIT_FAILED)
        if failed is not None:
            return self._broken_off(f"{self._source.name}: {failed}", EXIT_FAILED)
        took = perf_counter() - began
        note(f"emitted {plural(self._emitted, 'event')} in {took:.1f} s ({self._emitted / max(took, 1e-9):,.0f}/s)")
        if self._rejected:
            return fail(f"the broker refused {plural(self._rejected, 'event')}, named above", EXIT_FAILED)
        return 0

    async def _emit_all(self) -> str | None:
        """Emit until the end or a bad line; returns what is wrong with that line."""
        # the loop's own handler would wait for a read that blocks; this one interrupts it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        async with open_emitter(self._source.path) as (emitter, max_payload):
            source = self._source
            reader = event_lines(self._descriptor, source.channel, max_payload, source.from_line)
            with reading(reader.size, source.name, "events") as advance:
                while (batch := reader.read_batch()) is not None:
                    await self._emit(emitter, batch)
                    advance(reader.place, self._emitted)
                    if batch.bad is not None:
                        return str(batch.bad)
        return None

    async def _emit(self, emitter: "EventEncoder", batch: EventBatch[Event]) -> None:
        self._under_way = batch if batch.items else None
        answers = await emitter.emit_many(batch.items) if batch.items else []
        self._under_way = None
        self._done_to = batch.read_to
        ids: list[bytes] = []
        for event, number, answer in zip(batch.items, batch.numbers, answers, strict=True):
            if isinstance(answer, DriverError):
                self._refused(number, answer)
                continue
            self._emitted += 1
            if self._as_json:
                ids.append(msgspec.json.encode({"id": answer, "channel": event.channel, "line": number}))
            else:
                ids.append(answer.encode())
        self._print(ids)

    def _print(self, ids: Sequence[bytes]) -> None:
        if ids and not self._silent:
            sys.stdout.write(b"\n".join(ids).decode() + "\n")

    def _refused(self, number: int, error: DriverError) -> None:
        self._rejected += 1
        if self._rejected <= NAMED_REJECTIONS:
            note(f"{self._source.name}: line {number}: refused by the broker: {error}")

    def _broken_off(self, why: str, code: int) -> int:
        """Say what happened, what is safe, and how to go on."""
        sys.stdout.flush()
        fail(why, code)
        first = self._source.from_line
        if self._done_to >= first:
            note(f"emitted and confirmed: {plural(self._emitted, 'event')} (lines {first} to {self._done_to})")
        else:
            note("emitted: nothing")
        if self._under_way is not None:
            numbers = self._under_way.numbers
            note(f"unknown: lines {numbers[0]} to {numbers[-1]} were under way and may have been stored")
        note(f"to go on: {self._source.resume(self._done_to + 1)}")
        return code
