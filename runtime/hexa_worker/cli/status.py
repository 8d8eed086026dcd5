"""``hexa-worker status``: how a running worker stands."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from hexa_worker.cli.ctl._common import connect
from hexa_worker.cli.project import config_option, json_option, only_config
from hexa_worker.cli.terminal import clean, plural, write, write_json

if TYPE_CHECKING:
    from hexa_worker.processes.control.client import ControlClient
    from hexa_worker.processes.control.worker_status import SubscriptionStatus, WorkerStatus

EVERY_S = 1.0
LONG_S = 10.0
"""A handler that runs for so long is worth a line."""


@click.command("status", short_help="Show how a running worker stands.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@click.option("--watch", is_flag=True, help="Show it again every second, until interrupted or the worker ends.")
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, watch: bool, as_json: bool) -> int:
    """Show the processes and subscriptions of the worker that runs with this worker.toml on this machine.

    \b
    Example:
      hexa-worker status
      hexa-worker status --watch
      hexa-worker status --json
    """
    with connect(only_config(config_path, arguments)) as client:
        while True:
            status = ask_status(client)
            if as_json:
                write_json(status)
            else:
                for line in _lines(status):
                    write(line)
            if not watch:
                return 0
            if not as_json:
                write("")
            sys.stdout.flush()
            time.sleep(EVERY_S)


def ask_status(client: "ControlClient") -> "WorkerStatus":
    """How the worker at the other end stands. Raises ControlError."""
    from hexa_worker.processes.control.messages import AskStatus  # noqa: PLC0415 - lazy by design
    from hexa_worker.processes.control.worker_status import WorkerStatus  # noqa: PLC0415 - as above

    (answer,) = client.ask(AskStatus())
    return msgspec.convert(getattr(answer, "data", None), WorkerStatus)


def _lines(status: "WorkerStatus") -> Iterator[str]:
    """One block per subscription: readable at 80 columns."""
    word = "stopping" if status.stopping else "ready" if status.ready else "not ready"
    yield f"{clean(status.name)}: {word}{'' if status.alive else ', not alive'}, parent process {status.pid}"
    for process in status.processes:
        what = "ready" if process.ready else process.phase
        restarted = f", {plural(process.restarts, 'restart')}" if process.restarts else ""
        yield f"  process {process.slot}: {what}, pid {process.pid}{restarted}"
    if status.reload.state == "failed":
        yield f"  the latest reload failed: {clean(status.reload.reason)}"
    elif status.reload.state == "under way":
        yield "  a reload is under way"
    for one in status.subscriptions:
        yield from _subscription(one)
    for action, reason in sorted(status.off.items()):
        yield f"{clean(action)}: OFF, {clean(reason)}; see lag for what it has left"
    for action in status.paused_elsewhere:
        yield f"{clean(action)}: paused, and there is no such subscription (it was renamed or removed)"


def _subscription(one: "SubscriptionStatus") -> Iterator[str]:
    states = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in one.states.items()) or "no process"
    paused = ["PAUSED"] if one.paused else []
    if one.paused_keys:
        paused.append(f"{plural(one.paused_keys, 'key')} PAUSED ({one.kept:,} kept)")
    yield f"{clean(one.action)}: {', '.join([*paused, states])}; reads {clean(one.channels)}"
    yield (
        f"  {one.rate:,.1f}/s, handled {one.handled:,}, retried {one.retried:,}, dead letters {one.dead_lettered:,}, "
        f"running {one.running:,} of {one.concurrency:,}, in flight {one.in_flight:,}"
    )
    if one.on_hold:
        yield f"  HELD by {plural(one.on_hold, 'event')} whose retries are used up, see ctl resume"
    if one.longest_s >= LONG_S:
        yield f"  a handler has run for {one.longest_s:,.0f} s, see ctl dump"
    if one.last_failure is not None:
        yield f"  last failure {one.last_failure.at}: {clean(one.last_failure.error)}"
    for error in one.errors:
        yield f"  {clean(error)}"
