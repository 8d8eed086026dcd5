"""``hexa-worker ctl pause``."""

import click

from hexa_worker.cli.ctl._common import carry_out
from hexa_worker.cli.project import config_option, find_config, json_option


@click.command("pause", short_help="Pause a subscription, or one key of it.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] ACTION")
@click.option("--key", help="Only the events with this key.")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, key: str | None, *, as_json: bool) -> int:
    """Pause a subscription in all processes of the worker.

    It receives nothing more; what is in flight ends. With --key only the events with that key wait, and those
    that must not overtake them. It stays paused until it is resumed, also across restarts of the worker.

    \b
    Example:
      hexa-worker ctl pause check-order
      hexa-worker ctl pause check-order --key customer-7
    """
    from hexa_worker.processes.control.messages import PauseAction  # noqa: PLC0415 - lazy by design

    path, rest = find_config(config_path, arguments)
    if len(rest) != 1:
        raise click.UsageError("name one subscription", click.get_current_context())
    return carry_out(path, PauseAction(action=rest[0], key=key), as_json=as_json)
