"""What of this machine a worker would need: folders it may write, files it may read, an address to serve on.

Only looks. A worker ends with exit code 2 where one of them is missing; ``check`` may run elsewhere, so there it warns.
"""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from hexa_worker.config.model import Config


def look_around(config: "Config") -> tuple[list[str], list[str]]:
    """What a worker would miss, one sentence each that names the key: what ends it, and what it does without."""
    file = config.file
    lineage = [("lineage.path", file.lineage.path)] if file.lineage.store == "embedded" else []
    without = [f"{one} (lineage is not kept meanwhile)" for one in _stores(config, lineage)]
    return [*_folders(config), *_files(file, config.folder, ""), *_status_address(config)], without


def _folders(config: "Config") -> Iterator[str]:
    file = config.file
    yield from _unwritable("worker.state_dir", config.folder / file.worker.state_dir)
    stores = [("broker.path", str(getattr(file.broker, "path", "")))]
    stores += [("dedup.path", file.dedup.path)] if file.dedup.store == "embedded" else []
    yield from _stores(config, stores)


def _stores(config: "Config", stores: list[tuple[str, str]]) -> Iterator[str]:
    for key, name in stores:
        path = config.folder / name
        if name and _is(path, Path.is_dir):
            yield f"{key}: {path} is a folder: name a file"
        elif name:
            yield from _unwritable(key, path.parent)


def _unwritable(key: str, folder: Path) -> Iterator[str]:
    """Why a folder cannot be made or written, if it cannot."""
    near = folder
    while not _is(near, Path.exists) and near != near.parent:
        near = near.parent
    if not _is(near, Path.is_dir):
        yield f"{key}: {near} is no folder: name another one"
    elif not os.access(near, os.W_OK | os.X_OK):
        yield f"{key}: this user may not write in {near}: give it the right to, or name another folder"


def _is(path: Path, question: Callable[[Path], bool]) -> bool:
    try:
        return question(path)
    except OSError:  # a name too long, a folder that may not be looked into
        return False


def _files(table: object, folder: Path, place: str) -> Iterator[str]:
    """The keys that end in ``_file``, in all tables."""
    if not isinstance(table, msgspec.Struct):
        return
    for name in table.__struct_fields__:
        value = getattr(table, name)
        key = f"{place}.{name}".lstrip(".")
        if isinstance(value, dict):
            for inner, one in value.items():
                yield from _files(one, folder, f"{key}.{inner}")
        elif isinstance(value, str) and name.endswith("_file") and not os.access(folder / value, os.R_OK):
            yield f"{key}: {folder / value} cannot be read: name a file that this user may read"
        yield from _files(value, folder, key)


def _status_address(config: "Config") -> Iterator[str]:
    """Whether the status pages' host is one of this machine's; the port may be a running worker's."""
    http = config.file.worker.http
    if http is None:
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(http.host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as server:
            server.bind(address)
    except OSError as error:
        yield f"worker.http.host: {http.host} is no address of this machine: {error.strerror}"
