"""``hexa-worker ctl scale``."""

import click

from hexa_worker.cli.ctl._common import carry_out
from hexa_worker.cli.project import config_option, find_config, json_option


@click.command("scale", short_help="Have another number of processes.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] PROCESSES")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """Start or drain processes until there are so many; waits until they are ready.

    It holds until the worker ends, or is reloaded with another number in worker.toml.

    \b
    Example:
      hexa-worker ctl scale 4
    """
    from hexa_worker.processes.control.messages import Scale  # noqa: PLC0415 - lazy by design

    path, rest = find_config(config_path, arguments)
    if len(rest) != 1:
        raise click.UsageError("say how many processes", click.get_current_context())
    processes = click.IntRange(1, 1024)(rest[0], None, click.get_current_context())
    return carry_out(path, Scale(processes=processes), as_json=as_json, patience_s=None)
