"""``hexa-worker dlq``: the dead-letter desk on the command line, one module per command."""

from importlib import import_module

import click

COMMANDS = {
    "list": ("listing", "List dead letters, those that look alike together."),
    "show": ("showing", "Show one dead letter, whole."),
    "redrive": ("redrive", "Send dead letters round again."),
    "purge": ("purge", "Delete dead letters for good."),
    "export": ("export", "Write dead letters to a file of JSON lines."),
    "import": ("importing", "Put exported dead letters back."),
}


class DeskGroup(click.Group):
    """Its commands are imported when they are called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The names, in the order a user meets them."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{COMMANDS[name][0]}").command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in ``--help``."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command("dlq", cls=DeskGroup, short_help="List, show, redrive, purge, export or import dead letters.")
def command() -> None:
    """List, show, redrive, purge, export or import dead letters.

    \b
    Example:
      hexa-worker dlq list
      hexa-worker dlq show check-order.dlq-17 --payload
      hexa-worker dlq redrive --action check-order --error TimeoutError --rate 50/s
    """
