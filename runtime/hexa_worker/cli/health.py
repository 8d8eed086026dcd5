"""``hexa-worker health``: for the probes of containers that serve no pages."""

import click

from hexa_worker.cli.ctl._common import connect
from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.project import config_option, json_option, only_config
from hexa_worker.cli.status import ask_status
from hexa_worker.cli.terminal import clean, fail, write, write_json


@click.command("health", short_help="Say whether a running worker is ready, by the exit code.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@click.option("--ready/--live", "ready", default=True, help="Whether it consumes (default), or whether it is alive.")
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, ready: bool, as_json: bool) -> int:
    """Say whether the worker that runs with this worker.toml on this machine is ready, or alive.

    Exit code 0: it is; 1: it is not, or does not run or answer. These are the answers of /ready and /live.
    A worker whose broker is unavailable is alive and not ready.

    \b
    Example:
      hexa-worker health
      hexa-worker health --live
    """
    with connect(only_config(config_path, arguments)) as client:
        status = ask_status(client)
    good = status.ready if ready else status.alive
    why = [f"{one.action}: {error}" for one in status.subscriptions for error in one.errors]
    if as_json:
        write_json({"ready": status.ready, "alive": status.alive, "stopping": status.stopping, "errors": why})
        return 0 if good else EXIT_FAILED
    word = "ready" if ready else "alive"
    if good:
        write(word)
        return 0
    return fail(f"not {word}{''.join(f'; {clean(text)}' for text in why)}", EXIT_FAILED)
