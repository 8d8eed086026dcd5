"""What the commands of ``ctl`` share."""

from pathlib import Path
from typing import TYPE_CHECKING

from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.terminal import fail, note, write, write_json

if TYPE_CHECKING:
    from hexa_worker.processes.control.client import ControlClient
    from hexa_worker.processes.control.messages import Request


def connect(path: Path) -> "ControlClient":
    """Reach the worker of a worker.toml. Raises ConfigError, or ControlError: it does not run."""
    from hexa_worker.config.load import load_config  # noqa: PLC0415 - lazy by design
    from hexa_worker.processes.control.client import ControlClient  # noqa: PLC0415 - as above
    from hexa_worker.processes.state_files import StateFiles  # noqa: PLC0415 - as above

    config = load_config(path)
    worker = config.file.worker
    return ControlClient(StateFiles.of((config.folder / worker.state_dir).resolve(), worker.name).socket)


def carry_out(path: Path, request: "Request", *, as_json: bool, patience_s: float | None = 10.0) -> int:
    """Have a worker do something; the exit code."""
    from hexa_worker.processes.control.messages import Accepted  # noqa: PLC0415 - lazy by design

    with connect(path) as client:
        for answer in client.ask(request, patience_s=patience_s):
            if as_json:
                write_json(answer)
            elif isinstance(answer, Accepted):
                note(f"accepted as request {answer.number}")
            elif answer.ok:
                write(answer.message)
            if not isinstance(answer, Accepted) and not answer.ok:
                return fail(answer.message, EXIT_FAILED)
    return 0
