"""``hexa-worker run``: nothing is imported here that a worker does not need, start-up time is a feature."""

import click

from hexa_worker.cli.project import config_option, only_config


@click.command("run", short_help="Run the worker.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@click.option("--processes", type=click.IntRange(1, 1024), help="How many worker processes, instead of the file's.")
@click.option("--until-idle", is_flag=True, help="Handle everything, retries included, then end with exit code 0.")
@click.option("--backend", type=click.Choice(["asyncio", "trio"]), help="The event loop, instead of the file's.")
@click.option("--only", metavar="ACTION,…", default="", help="Run these subscriptions alone.")
def command(  # noqa: PLR0913 - one per option
    arguments: tuple[str, ...],
    config_path: str | None,
    processes: int | None,
    *,
    until_idle: bool,
    backend: str | None,
    only: str,
) -> int:
    """Run the worker until it is told to stop.

    The first SIGTERM or Ctrl-C lets running handlers end; the second cancels them. SIGHUP restarts
    the processes one after the other.

    \b
    Example:
      hexa-worker run worker.toml --processes 4
      hexa-worker run --until-idle
      hexa-worker run --only check-order,send-mail
    """
    from hexa_worker.processes import run_parent, spawn_first  # noqa: PLC0415 - lazy by design

    path = only_config(config_path, arguments)
    first = spawn_first()  # before anything else is imported here: it does the same meanwhile
    from hexa_worker.config.load import load_config  # noqa: PLC0415

    config = load_config(path)
    chosen = tuple(name.strip() for name in only.split(",") if name.strip())
    return run_parent(
        path, config, processes=processes, until_idle=until_idle, backend=backend, only=chosen, first=first
    )
