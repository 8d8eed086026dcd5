"""``hexa-worker outbox status``."""

import time

import click
import msgspec

from hexa_worker.cli.outbox.opening import open_outbox
from hexa_worker.cli.project import config_option, json_option, only_config
from hexa_worker.cli.terminal import plural, write, write_json


@click.command("status", short_help="Show what waits, how long, and who sends.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> None:
    """Show what waits in the outbox, how old the oldest of it is, what the broker refuses, and who sends.

    \b
    Example:
      hexa-worker outbox status
      hexa-worker outbox status --json | jq .pending
    """
    with open_outbox(only_config(config_path, arguments)) as store:
        status = store.status(time.time_ns() // 1_000_000)
    if as_json:
        blocked = status.blocked_by
        horizon = None if blocked is None else {"pid": blocked[0], "age_s": blocked[1]}
        write_json({**msgspec.to_builtins(status), "blocked_by": horizon})
        return
    about = "" if status.exact else "about "
    age = "" if status.oldest_age_s is None else f", the oldest is {status.oldest_age_s:.1f} s old"
    write(f"pending  {about}{plural(status.pending, 'event')}{age}")
    write(f"held     {plural(status.held, 'event')} that the broker refuses, or that wait behind such a one")
    write(f"parked   {plural(status.parked, 'event')}")
    write(f"sent by  {status.leader or 'nobody'}")
    if status.blocked_by is not None:
        pid, age_s = status.blocked_by
        since = "is open" if age_s is None else f"has been open for {age_s:.1f} s"
        write(f"open     a transaction of process {pid} {since} and may still commit events")
