"""What the parent takes from worker.toml: at its start, and anew at each reload."""

import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from hexa_worker.config.load import load_config
from hexa_worker.config.model import Config
from hexa_worker.config.watchdog import watchdog_s
from hexa_worker.errors import ConfigError
from hexa_worker.processes.pool import Pool
from hexa_worker.processes.protocol import Arguments
from hexa_worker.processes.rolling import Reload
from hexa_worker.processes.slot import Rules
from hexa_worker.processes.spawn import Command
from hexa_worker.telemetry.configure import configure

RESTART_ONLY: Final = ("name", "state_dir", "http")
"""Keys of ``[worker]`` that a reload leaves as they are: what they name is held by the parent itself."""

log = logging.getLogger("hexa_worker.processes")


def current_folder() -> str:
    """The folder this process was started in, by the path the shell knows it by.

    A link in it is followed anew by each process that is started: a release that it points to later is found.
    """
    logical = os.environ.get("PWD", "")
    try:
        if Path(logical).is_absolute() and Path(logical).samefile(Path()):
            return logical
        return str(Path.cwd())
    except OSError:  # it was removed
        return logical or "/"


def rules_of(  # noqa: PLR0913 - one keyword per option of the command
    config_path: Path,
    config: Config,
    *,
    command: Command,
    until_idle: bool = False,
    backend: str | None = None,
    only: tuple[str, ...] = (),
) -> Rules:
    """How processes are started and looked after.

    Args:
        config_path: worker.toml; children read it again.
        config: what it says.
        command: how a child is started.
        until_idle: see `Arguments`.
        backend: see there.
        only: see there.
    """
    worker = config.file.worker
    folder = current_folder()
    silence_s, warning = watchdog_s(config.file)
    for text in (*config.warnings, *filter(None, (warning,))):
        log.warning("%s", text)
    arguments = Arguments(
        slot=0,
        parent=os.getpid(),
        folder=folder,
        config_path=str(Path(folder) / config_path),
        state_dir=os.path.realpath(config.folder / worker.state_dir),  # it stays where the parent has its lock
        name=worker.name,
        watchdog_s=silence_s,
        until_idle=until_idle,
        backend=backend,
        only=only,
    )
    return Rules(
        arguments=arguments,
        command=command,
        restart=worker.process_restart,
        watchdog_s=silence_s,
        grace_s=worker.shutdown_grace_s,
        until_idle=until_idle,
    )


class Reloader:
    """Reads worker.toml anew.

    Args:
        config: what it said at the start.
        rules: what came of it.
        processes_fixed: their number was not taken from it.
    """

    def __init__(self, config: Config, rules: Rules, *, processes_fixed: bool) -> None:
        self._started = config
        self._config = config
        self._rules = rules
        self._processes_fixed = processes_fixed

    def reload(self, pool: Pool) -> None:
        """Begin a reload, unless worker.toml is no good."""
        arguments = self._rules.arguments
        try:
            config = load_config(Path(arguments.config_path))
        except (ConfigError, OSError) as error:
            pool.refuse_reload(str(error))
            return
        worker = config.file.worker
        for key in RESTART_ONLY:
            if getattr(worker, key) != getattr(self._started.file.worker, key):
                log.warning("[worker] %s has changed: that takes a restart, a reload leaves it as it was", key)
        rules = rules_of(
            Path(arguments.config_path),
            config,
            command=self._rules.command,
            until_idle=arguments.until_idle,
            backend=arguments.backend,
            only=arguments.only,
        )
        kept = {"folder": arguments.folder, "state_dir": arguments.state_dir, "name": arguments.name}
        changed = worker.processes != self._config.file.worker.processes and not self._processes_fixed

        def adopt() -> None:
            self._config = config
            configure(level=pool.controls.log_level or worker.log.level, style=worker.log.format)

        pool.reload(
            Reload(
                rules=msgspec.structs.replace(rules, arguments=msgspec.structs.replace(rules.arguments, **kept)),
                processes=worker.processes if changed else None,
                adopt=adopt,
            )
        )
