"""``hexa-worker ctl``: one module per command, imported only when it is called."""

import click

from hexa_worker.cli.subcommands import Subcommands

COMMANDS = {
    "pause": ("pause", "Pause a subscription, or one key of it."),
    "resume": ("resume", "Let it go on."),
    "concurrency": ("concurrency", "Let another number of handler calls run at once."),
    "dump": ("dump", "Show what every lane does."),
    "restart": ("restart", "Read worker.toml again, replace one process after the other."),
    "scale": ("scale", "Have another number of processes."),
    "log-level": ("log_level", "Log from another level on."),
    "drain": ("drain", "Let running handlers end, then stop."),
    "history": ("history", "Show what was asked before."),
}


@click.command("ctl", cls=Subcommands, package=__package__, commands=COMMANDS, short_help="Control a running worker.")
def command() -> None:
    """Control the worker that runs with this worker.toml on this machine.

    What is asked reaches all its processes. A worker on another machine is another one.

    \b
    Example:
      hexa-worker ctl pause check-order
      hexa-worker ctl pause check-order --key customer-7
      hexa-worker ctl resume check-order
      hexa-worker ctl history
    """
