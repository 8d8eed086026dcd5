"""``hexa-worker trace``: everything that came of one event, as a tree."""

from pathlib import Path
from typing import Any

import click

from hexa_worker.cli.project import config_option, find_config, json_option, open_project, run_async
from hexa_worker.cli.terminal import fail, note, write_json
from hexa_worker.desk.tracer import Traced, Tracer

EXIT_FAILED = 1


@click.command("trace", short_help="Show everything that came of one event, as a tree.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] EVENT_ID")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """Show everything that came of an event, as a tree.

    What each subscription did with it, attempt by attempt, with outcomes, delays and errors; retries and dead
    letters that wait; redrives; and every event that was emitted on the way.

    Any event of the tree may be named, by its event id or by its id in the broker where nobody gave it one.

    \b
    Example:
      hexa-worker trace 019ab0c4d2f1-5f3a9c0d1e2b4a68-1
      hexa-worker trace worker.toml 019ab0c4d2f1-5f3a9c0d1e2b4a68-1 --json
    """
    path, rest = find_config(config_path, arguments)
    if len(rest) != 1:
        raise click.UsageError("name one event", click.get_current_context())
    traced = run_async(_trace, path, rest[0])
    if traced is None:
        return fail(f"nothing is known of {rest[0]!r}: neither remembered nor waiting in a channel", EXIT_FAILED)
    from hexa_worker.cli import tree  # noqa: PLC0415 - lazy by design

    if as_json:
        found: dict[str, Any] = {"root_id": traced.tree.event_id, **tree.plain(traced.tree)}
        if traced.cut:
            found["not_searched_to_the_end"] = list(traced.cut)
        write_json(found)
    else:
        tree.draw(traced.tree)
        for channel in traced.cut:
            note(f"{channel} is too long to be searched to its end")
    return 0


async def _trace(path: Path, event_id: str) -> Traced | None:
    from hexa_worker.lineage.opening import open_store  # noqa: PLC0415 - lazy by design

    async with open_project(path) as project:
        store = open_store(project.config)
        try:
            remembers = project.config.file.lineage.store != "off"
            return await Tracer(project.driver, project.specs, store, remembers=remembers).trace(event_id)
        finally:
            if store is not None:
                store.close()
