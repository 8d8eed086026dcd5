"""One command at a time that sends or puts back dead letters: two would both send what neither has removed yet."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hexa_worker.config.model import Config, Embedded
from hexa_worker.errors import ConfigError


def lock_of(config: Config) -> Path:
    """The file that is locked meanwhile: beside the broker's own, or among the worker's."""
    # Its name stays: a command of an earlier version must be kept out, too.
    broker, worker = config.file.broker, config.file.worker
    if isinstance(broker, Embedded):
        return Path(f"{config.folder / broker.path}-desk")
    return config.folder / worker.state_dir / f"{worker.name}.desk"


@contextmanager
def alone(config: Config) -> Iterator[None]:
    """Keep other commands of this machine out; ends with the process, however that ends.

    Raises:
        ConfigError: another one is at work, or the file cannot be made.
    """
    path = lock_of(config)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be opened: {error.strerror}", hint="dlq commands lock it while they work"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise ConfigError(
                f"another redrive or import of these dead letters is under way (process {who})",
                where=str(path),
                hint="wait until it ends; what it does not send can be sent then",
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
        yield
    finally:
        os.close(descriptor)
