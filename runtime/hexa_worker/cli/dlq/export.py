"""``hexa-worker dlq export``."""

import os
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from hexa_worker.cli.dlq.open_ import open_dead_letters
from hexa_worker.cli.dlq.options import filtered, filters
from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.progress import reading
from hexa_worker.cli.project import config_option, find_config, run_async
from hexa_worker.cli.terminal import fail, note, plural
from hexa_worker.clock import SystemClock
from hexa_worker.dead_letters.dead_letters import DeadLetters
from hexa_worker.dead_letters.filters import Filters
from hexa_worker.dead_letters.jsonl import line_of
from hexa_worker.errors import ConfigError

TOLD_EVERY = 100


@click.command("export", short_help="Write dead letters to a file of JSON lines.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] [ID]...")
@config_option
@filtered
@click.option("--file", metavar="FILE", help="Write to this new file; default: standard output.")
@click.option("--overwrite", is_flag=True, help="FILE may exist.")
def command(
    arguments: tuple[str, ...], config_path: str | None, file: str | None, *, overwrite: bool, **chosen: Any
) -> int:
    """Write dead letters as JSON lines, byte for byte, payloads included. They stay where they are.

    A file appears when it is complete. Import takes it back, also into another broker.

    \b
    Example:
      hexa-worker dlq export --file letters.jsonl
      hexa-worker dlq export --fingerprint 4f55a5049ee0 | jq -r .payload
    """
    path, ids = find_config(config_path, arguments)
    meant = filters(ids, chosen)
    if file is None:
        count = run_async(_export, path, meant, sys.stdout.buffer, "dead letters")
    else:
        with _new_file(Path(file), overwrite=overwrite) as out:
            count = run_async(_export, path, meant, out, file)
    note(f"exported {plural(count, 'dead letter')}")
    if count < len(ids):
        return fail(f"only {count} of {len(ids)} named dead letters were there", EXIT_FAILED)
    return 0


async def _export(path: Path, meant: Filters, out: BinaryIO, name: str) -> int:
    count = 0
    async with open_dead_letters(path, meant.action) as project:
        letters = DeadLetters(project.driver, project.specs, SystemClock()).letters(meant)
        with reading(None, name, "dead letters") as advance:
            async with aclosing(letters):
                async for letter in letters:
                    out.write(line_of(letter) + b"\n")
                    count += 1
                    if count % TOLD_EVERY == 0:
                        advance(0, count)
    out.flush()
    return count


@contextmanager
def _new_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A file for its owner alone that is there, whole, only when all went well.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise ConfigError(f"there is a file {path}", where="--file", hint="name another one, or say --overwrite")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", where="--file") from None
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
