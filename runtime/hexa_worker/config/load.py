"""Loads worker.toml: reads, resolves references, checks against the model. Never connects anywhere."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hexa_worker.config.check import Check
from hexa_worker.config.mistakes import raise_all
from hexa_worker.config.model import Config, File
from hexa_worker.config.references import References
from hexa_worker.config.rules import check_rules
from hexa_worker.errors import ConfigError

LARGEST_FILE = 4 * 1024 * 1024


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in `path`, its references resolved.

    Args:
        path: worker.toml, or another file like it.
        environ: what ``${NAME}`` is looked up in.

    Raises:
        ConfigError: naming the file, the key path, the value and what is allowed; all mistakes at once.
    """
    return parse_config(_read(path), path, environ)


def parse_config(text: str, path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """As `load_config`, from text that would be in `path`."""
    data = _parse(text, str(path))
    absolute = path.absolute()  # not resolved: a linked worker.toml still means the folder it appears in
    check = Check(str(path), References(absolute.parent, environ))
    file: File | None = check.table(data, File)
    if file is not None:
        check_rules(file, check)
    raise_all(str(path), check.mistakes)
    assert file is not None  # noqa: S101 - no mistakes, so there is a file
    return Config(path=absolute, file=file, warnings=tuple(_of_old_names(check, str(path))))


def _of_old_names(check: Check, file: str) -> Iterator[str]:
    for (old, new), tables in check.renamed.items():
        yield f"{file}: {old} is called {new} now, the old name still works: rename it in {', '.join(tables)}"


def _read(path: Path) -> str:
    where = str(path)
    try:
        if path.is_dir():
            raise ConfigError("is a folder", where=where, hint=f"did you mean {path / 'worker.toml'}?")
        if not path.exists():
            raise ConfigError("no such file", where=where, hint="hexa-worker init makes a new project")
        if not path.is_file():
            raise ConfigError("is not a regular file", where=where)
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=where) from error
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"is larger than {LARGEST_FILE} bytes", where=where, hint="is it the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"is not UTF-8: byte 0x{content[error.start]:02x} in line {line}", where=where, hint="save it as UTF-8"
        ) from None


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error).replace("(at ", "at ").removesuffix(")").replace("at end of document", _end_of(text))
        raise ConfigError(f"is not valid TOML: {message}", where=where) from None
    except RecursionError:
        raise ConfigError("is not valid TOML: nested too deeply", where=where) from None
    except ValueError as error:  # an integer with more digits than Python parses, a date that does not exist
        raise ConfigError(f"is not valid TOML: {error}", where=where) from None


def _end_of(text: str) -> str:
    return f"at the end of the file, line {text.count(chr(10)) + 1}"
