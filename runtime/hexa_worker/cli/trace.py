"""``hexa-worker trace``: everything that came of one event, as a tree or as it happens."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.project import Project, config_option, find_config, json_option, open_project, run_async
from hexa_worker.cli.terminal import fail, note, write, write_json
from hexa_worker.dead_letters.tracer import Traced, Tracer
from hexa_worker.errors import ConfigError

_IN_OUTBOX = {
    "waiting": "prepared, not sent yet",
    "refused": "the broker refuses it, it is tried again",
    "behind": "it waits behind one of its key that the broker refuses",
    "parked": "the broker refused it too often, see `hexa-worker outbox show`",
}


@click.command("trace", short_help="Show everything that came of one event, as a tree.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] EVENT_ID")
@config_option
@click.option("--follow", "-f", is_flag=True, help="Print what happens as it happens, until interrupted.")
@click.option("--until-done", is_flag=True, help="As --follow, and end when everything in the tree has ended.")
@json_option
def command(
    arguments: tuple[str, ...], config_path: str | None, *, follow: bool, until_done: bool, as_json: bool
) -> int:
    """Show everything that came of an event, as a tree.

    What each subscription did with it, attempt by attempt, with outcomes, delays and errors; retries and dead
    letters that wait; redrives; and every event that was emitted on the way.

    Any event of the tree may be named, by its event id or by its id in the broker where nobody gave it one. Services
    that share a lineage store see each other's part of the tree.

    With --follow each thing that happens is a line (with --json an object), those that had happened before first.
    What --until-done waits for is what the subscriptions of this worker.toml have to do, and what others began.
    It ends with an error when all else has ended and a channel still cannot be read.

    \b
    Example:
      hexa-worker trace 019ab0c4d2f1-5f3a9c0d1e2b4a68-1
      hexa-worker trace worker.toml 019ab0c4d2f1-5f3a9c0d1e2b4a68-1 --json
      hexa-worker trace --follow 019ab0c4d2f1-5f3a9c0d1e2b4a68-1
    """
    path, rest = find_config(config_path, arguments)
    if len(rest) != 1:
        raise click.UsageError("name one event", click.get_current_context())
    if follow or until_done:
        try:
            return run_async(_follow, path, rest[0], until_done, as_json)
        except KeyboardInterrupt:
            return 0  # it has no other end
    traced = run_async(_trace, path, rest[0])
    if traced.tree is None and (state := _in_outbox(path, rest[0])) is not None:
        text = _IN_OUTBOX[state]
        write_json({"root_id": rest[0], "outbox": state}) if as_json else write(f"{rest[0]} is in the outbox: {text}")
        return 0
    _say_what_is_missing(traced)
    if traced.tree is None:
        return fail(f"nothing is known of {rest[0]!r}: neither remembered nor waiting in a channel", EXIT_FAILED)
    from hexa_worker.cli import tree  # noqa: PLC0415 - lazy by design

    if as_json:
        more: dict[str, Any] = {"not_searched_to_the_end": list(traced.cut)} if traced.cut else {}
        more |= {"not_looked_into": traced.unread} if traced.unread else {}
        write_json(tree.plain(traced.tree, {"root_id": traced.tree.event_id}, more))
    else:
        tree.draw(traced.tree)
    return 0


def _say_what_is_missing(traced: Traced) -> None:
    for channel in traced.cut:
        note(f"{channel} is too long to be searched to its end")
    for channel, reason in sorted(traced.unread.items()):
        note(f"not looked into: {channel}: {reason}")


def _in_outbox(path: Path, event_id: str) -> str | None:
    """What became of an event that is written and not sent; None when there is no such event, or no outbox."""
    from hexa_worker.config.load import load_config  # noqa: PLC0415 - lazy by design

    if load_config(path).file.outbox is None:
        return None
    from hexa_worker.cli.outbox.opening import open_outbox  # noqa: PLC0415 - only where there is one

    with open_outbox(path) as store:
        return store.find(event_id)


async def _trace(path: Path, event_id: str) -> Traced:
    async with open_project(path) as project:
        return await _traced(project, event_id)


async def _traced(project: Project, event_id: str) -> Traced:
    from hexa_worker.lineage.opening import open_store  # noqa: PLC0415 - lazy by design

    store = open_store(project.config)
    try:
        remembers = project.config.file.lineage.store != "off"
        return await Tracer(project.driver, project.specs, store, remembers=remembers).trace(event_id)
    finally:
        if store is not None:
            store.close()


async def _follow(path: Path, event_id: str, until_done: bool, as_json: bool) -> int:  # noqa: FBT001 - called by anyio.run, which passes no keywords
    from hexa_worker.cli import tree  # noqa: PLC0415 - lazy by design
    from hexa_worker.dead_letters.following import follow  # noqa: PLC0415 - lazy by design
    from hexa_worker.lineage.opening import open_store  # noqa: PLC0415 - lazy by design

    async with open_project(path) as project:
        if project.config.file.lineage.store == "off":
            raise ConfigError("nothing is remembered that could be followed", where="lineage.store")

        def opened() -> Any:
            return open_store(project.config)

        trace: Callable[[], Awaitable[Traced]] | None = None
        if until_done:
            unread: set[str] = set()

            async def trace() -> Traced:
                traced = await _traced(project, event_id)
                if fresh := traced.unread.keys() - unread:
                    unread.update(fresh)
                    _say_what_is_missing(traced)
                return traced

        async with aclosing(follow(event_id, opened, trace)) as entries:
            async for entry in entries:
                tree.tell(entry, as_json=as_json)
    return 0
