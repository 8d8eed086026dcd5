"""``hexa-worker ctl dump``."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from hexa_worker.cli.ctl._common import connect
from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.project import config_option, json_option, only_config
from hexa_worker.cli.terminal import clean, write, write_json

if TYPE_CHECKING:
    from hexa_worker.processes.control.worker_status import ProcessDump


@click.command("dump", short_help="Show what every lane does.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """Show what every busy lane runs, for how long, and where its handler is; and where each event loop is.

    A process whose event loop is blocked answers, too. No payload and no variable is shown.

    \b
    Example:
      hexa-worker ctl dump
    """
    from hexa_worker.processes.control.messages import AskDump  # noqa: PLC0415 - lazy by design
    from hexa_worker.processes.control.worker_status import ProcessDump  # noqa: PLC0415 - as above

    with connect(only_config(config_path, arguments)) as client:
        (answer,) = client.ask(AskDump())
    processes = msgspec.convert(getattr(answer, "data", None), tuple[ProcessDump, ...])
    if as_json:
        write_json(processes)
    else:
        for process in processes:
            for line in _lines(process):
                write(line)
    return EXIT_FAILED if any(one.silent for one in processes) else 0


def _lines(process: "ProcessDump") -> Iterator[str]:
    what = "has not answered" if process.silent else f"{len(process.lanes)} busy"
    yield f"process {process.slot}, pid {process.pid}: {what}"
    for one in process.lanes:
        key = "" if one.key is None else f", key {clean(one.key)}"
        yield f"  {clean(one.action)} lane {one.lane}: {one.state} for {one.seconds:.1f} s"
        yield f"    event {clean(one.event_id)} ({clean(one.message_id)}){key}, attempt {one.attempt}"
        for frame in one.stack:
            yield f"      {clean(frame)}"
    if process.loop:
        yield "  event loop"
        for frame in process.loop[-5:]:
            yield f"      {clean(frame)}"
