"""``hexa-worker dlq``: dead letters on the command line, one module per command."""

import click

from hexa_worker.cli.subcommands import Subcommands

COMMANDS = {
    "list": ("list_", "List dead letters, those that look alike together."),
    "show": ("show", "Show one dead letter, whole."),
    "redrive": ("redrive", "Send dead letters round again."),
    "purge": ("purge", "Delete dead letters for good."),
    "export": ("export", "Write dead letters to a file of JSON lines."),
    "import": ("import_", "Put exported dead letters back."),
    "park": ("park", "List, retry or drop deliveries whose record the broker refuses."),
}


@click.command(
    "dlq",
    cls=Subcommands,
    package=__name__,
    commands=COMMANDS,
    short_help="List, show, redrive, purge, export or import dead letters.",
)
def command() -> None:
    """List, show, redrive, purge, export or import dead letters.

    \b
    Example:
      hexa-worker dlq list
      hexa-worker dlq show check-order.dlq-17 --payload
      hexa-worker dlq redrive --action check-order --error TimeoutError --rate 50/s
    """
