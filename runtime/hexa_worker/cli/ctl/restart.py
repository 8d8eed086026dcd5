"""``hexa-worker ctl restart``."""

import click

from hexa_worker.cli.ctl._common import carry_out
from hexa_worker.cli.project import config_option, json_option, only_config


@click.command("restart", short_help="Read worker.toml again, replace one process after the other.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """Reload worker.toml and handlers, as SIGHUP does; waits until every process was replaced.

    When the new ones do not get ready, the old ones stay, the exit code is 1, and the error says why.

    \b
    Example:
      hexa-worker ctl restart
    """
    from hexa_worker.processes.control.messages import Restart  # noqa: PLC0415 - lazy by design

    return carry_out(only_config(config_path, arguments), Restart(), as_json=as_json, patience_s=None)
