"""The root command and the list of its commands. Listing them imports none of them."""

from difflib import get_close_matches
from importlib import import_module

import click

COMMANDS = {
    "init": "Make a new project that runs at once.",
    "check": "Check worker.toml and its handlers; show the subscriptions.",
    "run": "Run the worker.",
    "emit": "Emit events, one or a file of them.",
    "dlq": "List, redrive, purge, export or import dead letters.",
    "trace": "Show everything that came of one event, as a tree.",
    "lag": "Show what each subscription still has to do.",
    "forget": "Drop what the embedded broker keeps for a removed subscription.",
    "outbox": "Make, relay and look at the outbox.",
    "version": "Show versions.",
}


class LazyGroup(click.Group):
    """A group whose commands live in modules named after them."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The names, in the order a user meets them."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"hexa_worker.cli.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a guess at what was meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(COMMANDS)}"
            ctx.fail(f"there is no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in ``--help``."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command takes worker.toml as its first argument, or finds it in the current folder.",
)
@click.version_option(package_name="hexa-worker", message="%(prog)s %(version)s")
def root() -> None:
    """Actor-style worker runtime for event-driven services.

    \b
    Example:
      hexa-worker init orders && cd orders
      hexa-worker emit work --payload '{"id": 1}'
      hexa-worker run --until-idle
    """
