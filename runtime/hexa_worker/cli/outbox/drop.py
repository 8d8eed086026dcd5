"""``hexa-worker outbox drop``."""

import click

from hexa_worker.cli.outbox.opening import open_outbox
from hexa_worker.cli.outbox.parked import parked_ids
from hexa_worker.cli.project import config_option, find_config
from hexa_worker.cli.terminal import plural, write


@click.command("drop", short_help="Forget parked events.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] ID...")
@config_option
def command(arguments: tuple[str, ...], config_path: str | None) -> None:
    """Forget parked events: they will never be sent, and their keys go on.

    \b
    Example:
      hexa-worker outbox drop 1041
    """
    path, named = find_config(config_path, arguments)
    ids = parked_ids(named, everything=False) or ()
    with open_outbox(path) as store:
        write(f"{plural(store.drop(ids), 'event')} forgotten")
