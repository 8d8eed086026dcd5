"""Imports the modules that worker.toml names, and says exactly what is wrong when that fails."""

import builtins
import importlib
import importlib.machinery
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from hexa_worker.config.mistakes import suggest
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.signature import short_path

_DEEPEST = 3


class NoModule(ConfigError):
    """There is no module of that name."""


_OURS = str(Path(__file__).parent.parent)
"""A mistake is in the module that called us, not here."""


def put_first(folder: Path) -> None:
    """Make `folder` the first place modules are looked for, and forget modules of the same name from elsewhere.

    The latter matters only where one process loads several projects, as tests do.
    """
    text = str(folder)
    if sys.path[:1] != [text]:
        sys.path[:] = [text, *(one for one in sys.path if one != text)]
    importlib.invalidate_caches()


def import_named(name: str, folder: Path, where: str) -> list[ModuleType]:
    """The module called `name`; for ``package.*`` its direct submodules.

    Args:
        name: a dotted name.
        folder: where modules of the project are.
        where: the place in worker.toml that says it.

    Raises:
        ConfigError: there is no such module, or its code failed.
    """
    package, star, rest = name.partition(".*")
    if star and not rest:
        parent = import_one(package, folder, where)
        if not hasattr(parent, "__path__"):
            raise ConfigError(f'"{package}" is a module, not a package', where=where, hint=f'write "{package}"')
        names = sorted(f"{package}.{info.name}" for info in pkgutil.iter_modules(parent.__path__))
        return [import_one(one, folder, where) for one in names]
    return [import_one(name, folder, where)]


def import_one(name: str, folder: Path, where: str) -> ModuleType:
    """As `import_named`, without ``.*``."""
    if not all(part.isidentifier() for part in name.split(".")):
        dotted = name.removesuffix(".py").replace("/", ".").lstrip(".")
        hint = f"did you mean {dotted}?" if all(part.isidentifier() for part in dotted.split(".")) else ""
        raise ConfigError(f'"{name}" is not a module name', where=where, hint=hint or "write it as in an import")
    _forget_namesake(name.partition(".")[0], folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            nearby = list(_modules_in(folder))
            hint = suggest(name, nearby, what=f"in {short_path(str(folder))} there are")
            raise NoModule(f'there is no module "{name}"', where=where, hint=hint) from None
        raise _failed(name, error, where) from error
    except (Exception, SystemExit) as error:  # a user's module may do anything while it is imported
        raise _failed(name, error, where) from error


def named_class(name: str, folder: Path, where: str) -> Any:
    """What a dotted name stands for: something in a module, or in a class of one; without a dot, a builtin.

    Raises:
        ConfigError: there is no such thing, or the module's code failed.
    """
    parts = name.split(".")
    module, path = _module_of(parts, folder, where) if len(parts) > 1 else (builtins, parts)
    found: Any = module
    for part in path:
        if not hasattr(found, part):
            names = [one for one, value in vars(found).items() if isinstance(value, type)]
            hint = suggest(part, names, what="it has")
            if found is builtins and not hint.startswith("did"):
                hint = "write module.Class"
            raise ConfigError(f'"{found.__name__}" has no "{part}"', where=where, hint=hint)
        found = getattr(found, part)
    return found


def _module_of(parts: list[str], folder: Path, where: str) -> tuple[ModuleType, list[str]]:
    """The longest module that a dotted name begins with, and the rest of the name."""
    problem: ConfigError | None = None
    for count in range(len(parts) - 1, 0, -1):
        try:
            return import_one(".".join(parts[:count]), folder, where), parts[count:]
        except NoModule as error:
            problem = problem or error
    assert problem is not None  # noqa: S101 - there are two parts at least
    raise problem


def named_function(name: str, folder: Path, where: str) -> Any:
    """What ``module:function`` names; a module of the project is looked for in `folder` first.

    Raises:
        ConfigError: there is no such module or function, or the module's code failed.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute.isidentifier():
        raise ConfigError(f'"{name}" is not of the form "module:function"', where=where)
    module = import_one(module_name, folder, where)
    function = getattr(module, attribute, None)
    if not callable(function):
        names = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        hint = suggest(attribute, names, what="it has")
        raise ConfigError(f'module "{module_name}" has no "{attribute}"', where=where, hint=hint)
    return function


def _failed(name: str, error: BaseException, where: str) -> ConfigError:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        text = f"{type(error).__name__}: {error.msg}"
        return ConfigError(
            f'module "{name}" cannot be imported: {text}', where=_place(error.filename, error.lineno or 0)
        )
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and "importlib" not in frame.filename and frame.filename != __file__
    ]
    if not frames:
        return ConfigError(f'module "{name}" cannot be imported: {text}', where=where)
    own = [frame for frame in frames if not frame.filename.startswith(_OURS)] or frames
    own = [frame for frame in own if "site-packages" not in frame.filename] or own
    return ConfigError(
        f'module "{name}" cannot be imported: {text}', where=_place(own[-1].filename, own[-1].lineno or 0)
    )


def _place(file: str, line: int) -> str:
    return f"{short_path(file)}:{line}"


def _forget_namesake(top: str, folder: Path) -> None:
    known = sys.modules.get(top)
    if known is None:
        return
    spec = importlib.machinery.PathFinder.find_spec(top, [str(folder)])
    if spec is None or spec.origin is None or spec.origin == getattr(known, "__file__", None):
        return
    for name in [one for one in sys.modules if one == top or one.startswith(f"{top}.")]:
        del sys.modules[name]


def _modules_in(folder: Path, prefix: str = "", depth: int = 1) -> Iterator[str]:
    """Dotted names of the modules in a folder, a few levels deep."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.suffix == ".py" and entry.stem.isidentifier() and entry.stem != "__init__":
            yield prefix + entry.stem
        elif entry.is_dir() and entry.name.isidentifier() and depth < _DEEPEST and entry.name != "__pycache__":
            if (entry / "__init__.py").exists():
                yield prefix + entry.name
            yield from _modules_in(entry, f"{prefix}{entry.name}.", depth + 1)
