"""``hexa-worker emit``: one event, or a file of them; every id that is printed was confirmed by the broker."""

import os
import sys
from pathlib import Path

import click
import msgspec

from hexa_worker.cli.emit_file import FileEmission, Input, open_emitter
from hexa_worker.cli.jsonl import DEFAULT_MAX_PAYLOAD, BadLine, EventLine, event_of
from hexa_worker.cli.project import config_option, find_config, json_option, run_async
from hexa_worker.cli.terminal import write, write_json
from hexa_worker.errors import ConfigError

STDIN = "-"


@click.command("emit", short_help="Emit events, one or a file of them.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] [CHANNEL]")
@config_option
@click.option("--payload", metavar="JSON", help="The payload of one event.")
@click.option("--key", help="Its key.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="One of its headers; repeatable.")
@click.option("--id", "event_id", help="Its event id; default: a new one.")
@click.option("--file", "file", metavar="FILE", help="Emit a file of JSON lines; - is standard input.")
@click.option("--from-line", type=click.IntRange(1), default=1, help="Begin at this line of the file.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print no ids.")
def command(  # noqa: PLR0913 - one parameter per option
    arguments: tuple[str, ...],
    config_path: str | None,
    payload: str | None,
    key: str | None,
    headers: tuple[str, ...],
    event_id: str | None,
    file: str | None,
    from_line: int,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    """Emit events and print their ids, once the broker has confirmed them.

    A line of a file is {"channel": …, "key": …, "headers": {…}, "payload": …, "id": …}; only payload is
    needed when CHANNEL is given. Ids go to standard output, one per line; on a terminal a file shows its progress
    instead.

    \b
    Example:
      hexa-worker emit orders.created --key ada --payload '{"id": 1, "amount": 9.5}'
      hexa-worker emit --file orders.jsonl
      generate-orders | hexa-worker emit worker.toml orders.created --file -
    """
    path, rest = find_config(config_path, arguments)
    channel, file = _channel_and_file(rest, file, payload)
    if payload is not None:
        if from_line != 1:
            raise _usage("--from-line belongs to --file")
        line = _one_line(payload, key, headers, event_id)
        return run_async(_emit_one, path, channel, line, as_json, quiet)
    if key is not None or headers or event_id is not None:
        raise _usage("--key, --header and --id belong to --payload; in a file each line has its own")
    source = Input(path, config_path, channel, file or STDIN, from_line)
    return _emit_lines(source, as_json=as_json, quiet=quiet)


def _usage(text: str) -> click.UsageError:
    return click.UsageError(text, click.get_current_context())


def _channel_and_file(rest: tuple[str, ...], file: str | None, payload: str | None) -> tuple[str | None, str | None]:
    """The channel, and the input: a file, standard input or (with a payload) none."""
    if rest and rest[-1] == STDIN and file is None:
        rest, file = rest[:-1], STDIN
    if len(rest) > 1:
        raise _usage(f"unexpected argument {rest[1]!r}")
    if payload is not None and file is not None:
        raise _usage("--payload and --file exclude each other")
    if payload is not None and not rest:
        raise _usage("name the channel to emit to")
    if payload is None and file is None:
        if sys.stdin.isatty():
            raise _usage("nothing to emit: give --payload JSON or --file FILE")
        file = STDIN
    return (rest[0] if rest else None), file


def _one_line(payload: str, key: str | None, headers: tuple[str, ...], event_id: str | None) -> EventLine:
    """The event of the command line, in the form of a file's line."""
    pairs = {}
    for header in headers:
        name, equals, value = header.partition("=")
        if not equals or not name:
            raise _usage(f"--header {header!r} is not NAME=VALUE")
        pairs[name] = value
    try:
        data = payload.strip().encode()
        msgspec.json.decode(data, type=msgspec.Raw)
    except UnicodeEncodeError:
        raise _usage("--payload is not UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        hint = "" if data[:1] in (b"{", b"[") else "; a text needs its quotes: --payload '\"text\"'"
        raise _usage(f"--payload is not JSON: {error}{hint}") from None
    return EventLine(payload=msgspec.Raw(data), key=key, headers=pairs, id=event_id)


async def _emit_one(path: Path, channel: str | None, line: EventLine, as_json: bool, quiet: bool) -> int:  # noqa: FBT001 - called by anyio.run, which passes no keywords
    async with open_emitter(path) as (emitter, max_payload):
        try:
            event = event_of(line, 1, channel, max_payload or DEFAULT_MAX_PAYLOAD)
        except BadLine as bad:
            raise ConfigError(bad.reason) from None
        event_id = await emitter.emit(event)
    if as_json:
        write_json({"id": event_id, "channel": event.channel})
    elif not quiet:
        write(event_id)
    return 0


def _emit_lines(source: Input, *, as_json: bool, quiet: bool) -> int:
    try:
        descriptor = 0 if source.file == STDIN else os.open(source.file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot read {source.file}: {error.strerror}") from None
    bulk = FileEmission(source, descriptor, as_json=as_json, quiet=quiet)
    try:
        return bulk.run()
    finally:
        if descriptor:
            os.close(descriptor)
