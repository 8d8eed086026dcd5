"""``hexa-worker ctl resume``."""

import click

from hexa_worker.cli.ctl._common import carry_out
from hexa_worker.cli.project import config_option, find_config, json_option


@click.command("resume", short_help="Let a paused subscription go on.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] ACTION")
@click.option("--key", help="Only the events with this key.")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, key: str | None, *, as_json: bool) -> int:
    """Resume a subscription in all processes of the worker; with --key one key of it.

    \b
    Example:
      hexa-worker ctl resume check-order
      hexa-worker ctl resume check-order --key customer-7
    """
    from hexa_worker.processes.control.messages import ResumeAction  # noqa: PLC0415 - lazy by design

    path, rest = find_config(config_path, arguments)
    if len(rest) != 1:
        raise click.UsageError("name one subscription", click.get_current_context())
    return carry_out(path, ResumeAction(action=rest[0], key=key), as_json=as_json)
