"""``hexa-worker outbox init``."""

import click

from hexa_worker.cli.project import config_option, only_config
from hexa_worker.cli.terminal import write
from hexa_worker.config.load import load_config


@click.command("init", short_help="Make or renew the tables.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@click.option("--sql", is_flag=True, help="Print the statements, change nothing: for a migration tool.")
@click.option("--restored", is_flag=True, help="The database was restored from a dump: take its events as they are.")
def command(arguments: tuple[str, ...], config_path: str | None, *, sql: bool, restored: bool) -> None:
    """Make the tables of the outbox, or renew them after an upgrade. Safe to repeat.

    \b
    Example:
      hexa-worker outbox init
      hexa-worker outbox init --sql > migrations/0042_outbox.sql
    """
    from hexa_worker.outbox.initialising import ddl, initialise, restore  # noqa: PLC0415 - lazy by design

    config = load_config(only_config(config_path, arguments))
    if sql:
        write(ddl(config).rstrip())
        return
    before, now = initialise(config)
    if restored:
        write(f"the outbox goes on in this database; {restore(config)} events wait to be sent")
    elif before is None:
        write(f"the outbox is there, version {now}")
    else:
        write(f"the outbox has version {now}" + ("" if before == now else f", it had {before}"))
