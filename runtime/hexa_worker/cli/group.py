"""The root command and the list of its commands. Listing them imports none of them."""

import click

from hexa_worker.cli.subcommands import Subcommands

COMMANDS = {
    "init": ("init", "Make a new project that runs at once."),
    "check": ("check", "Check worker.toml and its handlers; show the subscriptions."),
    "run": ("run", "Run the worker."),
    "status": ("status", "Show how a running worker stands."),
    "health": ("health", "Say whether a running worker is ready, by the exit code."),
    "ctl": ("ctl", "Pause, resume or drain a running worker."),
    "emit": ("emit", "Emit events, one or a file of them."),
    "dlq": ("dlq", "List, redrive, purge, export or import dead letters."),
    "trace": ("trace", "Show everything that came of one event, as a tree."),
    "lag": ("lag", "Show what each subscription still has to do."),
    "channel": ("channel", "Look into a channel of the broker."),
    "forget": ("forget", "Drop what the embedded broker keeps for a removed subscription."),
    "outbox": ("outbox", "Make, relay and look at the outbox."),
    "version": ("version", "Show versions."),
}


@click.command(
    cls=Subcommands,
    package=__package__,
    commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command takes worker.toml as its first argument or by -c, or finds it by $HEXA_WORKER_CONFIG, "
    "or in the current folder.",
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
