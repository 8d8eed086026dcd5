"""A broker's options that a program gives in place of a worker.toml: the same keys, checked by the same model."""

from pathlib import Path
from typing import Any

import msgspec

from hexa_worker.config.check import Check
from hexa_worker.config.mistakes import raise_all
from hexa_worker.config.model import Broker, Config, File


def config_of(broker: Broker, name: str) -> Config:
    """The configuration of an application that has no worker.toml.

    Args:
        broker: its broker; relative paths in it are relative to the working directory.
        name: what ``[worker] name`` would say.

    Raises:
        ConfigError: an option is none that worker.toml would take; all mistakes at once.
    """
    where = f"{type(broker).__name__}(…)"
    check = Check(where, None)
    file: File | None = check.table({"worker": {"name": name}, "broker": _plain(broker)}, File)
    raise_all(where, check.mistakes)
    assert file is not None  # noqa: S101 - no mistakes, so there is a file
    return Config(path=Path("worker.toml").absolute(), file=file)


def _plain(value: Any) -> Any:
    """Options as a parsed worker.toml would hold them; what is None was not said."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        tag = {config.tag_field: config.tag} if config.tag_field else {}
        said = {name: getattr(value, name) for name in value.__struct_fields__}
        return tag | {name: _plain(one) for name, one in said.items() if one is not None}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value
