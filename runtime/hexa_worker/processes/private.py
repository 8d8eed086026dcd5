"""Folders and files of the worker that nobody else may put in its place: a name in them decides what is overwritten."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from hexa_worker.errors import ConfigError

HINT = "[worker] state_dir must name a folder that belongs to the worker's user and that nobody else may write to"


def private_folder(path: Path) -> None:
    """Make `path` for this user alone where it is missing.

    Raises:
        ConfigError: it is a link or no folder, somebody else owns it, or others may write to it.
        OSError: it cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError("is a link, which a worker does not follow", where=str(path), hint=HINT)
    if found.st_uid != os.geteuid():
        raise ConfigError(f"belongs to another user (number {found.st_uid})", where=str(path), hint=HINT)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError("may be written to by others", where=str(path), hint=f"chmod go-w {path}")


def state_folder(path: Path) -> None:
    """The same for state_dir itself, which may be a mounted one: root's, or writable for a group.

    Raises:
        ConfigError: another user than root owns it, or everybody may replace what is in it.
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"belongs to another user (number {found.st_uid})", where=str(path), hint=HINT)
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise ConfigError("may be written to by everybody", where=str(path), hint=f"chmod o-w {path}")


def open_private(path: Path, flags: int) -> int:
    """Open a file for this user alone, never through a link; see `os.open`.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_private(path: Path) -> BinaryIO:
    """An empty file to write, as `open_private`."""
    return os.fdopen(open_private(path, os.O_WRONLY | os.O_TRUNC), "wb")
