"""One parent per worker name and state_dir: two would read each other's journals."""

import fcntl
import os
from pathlib import Path

from hexa_worker.errors import ConfigError
from hexa_worker.processes.private import open_private, state_folder


def take(path: Path) -> int:
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
