"""Worker processes: a small parent that starts, watches and restarts children; each child runs the app."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hexa_worker.config.model import Config
    from hexa_worker.processes.spawn import Spawned


def run_parent(  # noqa: PLR0913 - as there
    config_path: Path,
    config: "Config",
    *,
    processes: int | None = None,
    until_idle: bool = False,
    backend: str | None = None,
    only: tuple[str, ...] = (),
    first: "Spawned | None" = None,
) -> int:
    """Run a worker as `hexa_worker.processes.parent.run_parent` says; imported here so that children need not."""
    from hexa_worker.processes import parent  # noqa: PLC0415 - children import this package too

    return parent.run_parent(
        config_path, config, processes=processes, until_idle=until_idle, backend=backend, only=only, first=first
    )


def spawn_first() -> "Spawned":
    """Start a first child before worker.toml is read: it imports what it needs while this process does the same.

    It waits for `run_parent` and ends with this process at the latest.
    """
    from hexa_worker.processes import spawn  # noqa: PLC0415 - as above

    spawn.secure_descriptors()
    spawn.require_interpreter()
    return spawn.spawn()
