"""A command with commands of its own, each in a module that is imported when it is called."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module

import click

Commands = Mapping[str, tuple[str, str]]
"""For each name its module and what it does."""


class Subcommands(click.Group):
    """The commands of one package.

    Args:
        package: where their modules are.
        commands: in the order a user meets them.
    """

    def __init__(self, *arguments: object, package: str = "", commands: Commands | None = None, **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]  # click's own, passed on
        self._package = package
        self._commands = commands or {}

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The names, in the order a user meets them."""
        return list(self._commands)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in self._commands:
            return None
        command: click.Command = import_module(f"{self._package}.{self._commands[name][0]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a guess at what was meant."""
        if args and args[0] not in self._commands and not args[0].startswith("-"):
            near = get_close_matches(args[0], self._commands, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(self._commands)}"
            ctx.fail(f"there is no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in ``--help``."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._commands.items()])
