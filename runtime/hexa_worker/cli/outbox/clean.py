"""``hexa-worker outbox clean``."""

import time

import click

from hexa_worker.cli.outbox.opening import open_outbox
from hexa_worker.cli.project import config_option, only_config
from hexa_worker.cli.terminal import plural, write
from hexa_worker.config.load import load_config
from hexa_worker.outbox.opening import outbox_options

_AGE = click.FloatRange(0, 1e9)


@click.command("clean", short_help="Remove what was sent long ago.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@click.option("--older-than", "age_s", type=_AGE, metavar="SECONDS", help="Instead of retention_s.")
def command(arguments: tuple[str, ...], config_path: str | None, age_s: float | None) -> None:
    """Remove events that were sent, and claims of events that were handled, longer ago than `retention_s`.

    The relay does it by itself. What waits to be sent is never removed.
    """
    if age_s != age_s:  # noqa: PLR0124 - which only NaN does
        raise click.UsageError("--older-than must be a number")
    path = only_config(config_path, arguments)
    age = outbox_options(load_config(path)).retention_s if age_s is None else age_s
    with open_outbox(path) as store:
        claims = store.clean(time.time_ns() // 1_000_000 - round(age * 1000))
    write(f"what was sent before is removed, and {plural(claims, 'claim')}")
