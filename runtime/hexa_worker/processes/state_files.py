"""The files of one worker in its state_dir, and the lock on them.

One parent per worker name and state_dir: two would read each other's journals.
"""

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

from hexa_worker.errors import ConfigError
from hexa_worker.processes.private import open_private, state_folder


class StateFiles(NamedTuple):
    """Where they are.

    Attributes:
        folder: ``<state_dir>/<worker name>.journal``: journals, stacks and suspects.
        lock: held by the parent as long as it lives.
        socket: where the parent listens to an operator.
        control: what an operator has asked for, across restarts.
    """

    folder: Path
    lock: Path
    socket: Path
    control: Path

    @classmethod
    def of(cls, state_dir: Path | str, name: str) -> "StateFiles":
        """The layout of the worker called `name`."""
        state = Path(state_dir)
        return cls(
            state / f"{name}.journal", state / f"{name}.lock", state / f"{name}.sock", state / f"{name}.control.json"
        )

    def journal(self, slot: int) -> Path:
        """The crash journal of one process."""
        return self.folder / f"slot-{slot}"

    def stack(self, slot: int) -> Path:
        """Where one process writes its stacks when asked."""
        return self.folder / f"slot-{slot}.stack"

    def journals(self) -> list[Path]:
        """The journals that exist: of processes nobody has looked after yet."""
        return sorted(path for path in self.folder.glob("slot-*") if path.suffix != ".stack")


def take_lock(path: Path) -> int:
    """Lock `path`; the lock lasts until the descriptor that is returned is closed, or the process ends.

    Raises:
        ConfigError: another parent has it, the file cannot be made, or others may replace it.
    """
    try:
        state_folder(path.parent)
        descriptor = open_private(path, os.O_RDWR)
    except OSError as error:
        raise _unusable(path.parent, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"another worker called {path.stem!r} runs with this state_dir",
            where=str(path),
            hint="stop it first, or give this one another name or state_dir; for more processes set processes",
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise _unusable(path.parent, error) from error
    return descriptor


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the worker's state_dir cannot be used: {error.strerror}",
        where=f"{folder}",
        hint="[worker] state_dir must name a folder that this user may write",
    )
