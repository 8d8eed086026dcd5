"""``hexa-worker outbox``: one module per command."""

import click

from hexa_worker.cli.subcommands import Subcommands

COMMANDS = {
    "init": ("init", "Make or renew the tables."),
    "relay": ("relay", "Send what is written, without a worker."),
    "status": ("status", "Show what waits, how long, and who sends."),
    "show": ("show", "List events that the broker refuses."),
    "retry": ("retry", "Let parked events be tried again."),
    "drop": ("drop", "Forget parked events."),
    "clean": ("clean", "Remove what was sent long ago."),
}


@click.command(
    "outbox", cls=Subcommands, package=__name__, commands=COMMANDS, short_help="Make, relay and look at the outbox."
)
def command() -> None:
    """Make, relay and look at the outbox of worker.toml.

    \b
    Example:
      hexa-worker outbox init
      hexa-worker outbox status
      hexa-worker outbox show
      hexa-worker outbox retry --all
    """
