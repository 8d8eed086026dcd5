"""``hexa-worker channel``: one module per command, imported only when it is called."""

import click

from hexa_worker.cli.subcommands import Subcommands

COMMANDS = {
    "peek": ("peek", "Show the latest records of a channel, without consuming them."),
}


@click.command(
    "channel", cls=Subcommands, package=__package__, commands=COMMANDS, short_help="Look into a channel of the broker."
)
def command() -> None:
    """Look into a channel of the broker. Nothing is consumed, made or changed.

    \b
    Example:
      hexa-worker channel peek orders.created
      hexa-worker channel peek orders.created --since 10m --last 50 --payload
    """
