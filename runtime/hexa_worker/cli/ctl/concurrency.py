"""``hexa-worker ctl concurrency``."""

import click

from hexa_worker.cli.ctl._common import carry_out
from hexa_worker.cli.project import config_option, find_config, json_option


@click.command("concurrency", short_help="Let another number of handler calls run at once.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] ACTION COUNT")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """Let another number of handler calls of a subscription run at once in each process.

    What runs ends first; nothing is received meanwhile. It holds until the worker ends.

    \b
    Example:
      hexa-worker ctl concurrency check-order 32
    """
    from hexa_worker.processes.control.messages import SetConcurrency  # noqa: PLC0415 - lazy by design

    path, rest = find_config(config_path, arguments)
    if len(rest) != 2:  # noqa: PLR2004 - see the usage
        raise click.UsageError("name one subscription and a number", click.get_current_context())
    count = click.IntRange(1, 10_000)(rest[1], None, click.get_current_context())
    return carry_out(path, SetConcurrency(action=rest[0], concurrency=count), as_json=as_json)
