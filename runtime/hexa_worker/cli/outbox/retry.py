"""``hexa-worker outbox retry``."""

import click

from hexa_worker.cli.outbox.opening import open_outbox
from hexa_worker.cli.outbox.parked import parked_ids
from hexa_worker.cli.project import config_option, find_config
from hexa_worker.cli.terminal import plural, write


@click.command("retry", short_help="Let parked events be tried again.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] [ID]...")
@config_option
@click.option("--all", "everything", is_flag=True, help="All of them.")
def command(arguments: tuple[str, ...], config_path: str | None, *, everything: bool) -> None:
    """Let parked events be tried again, by the relay that runs or the next one.

    \b
    Example:
      hexa-worker outbox retry 1041 1042
      hexa-worker outbox retry --all
    """
    path, named = find_config(config_path, arguments)
    ids = parked_ids(named, everything=everything)
    with open_outbox(path) as store:
        write(f"{plural(store.retry(ids), 'event')} will be tried again")
