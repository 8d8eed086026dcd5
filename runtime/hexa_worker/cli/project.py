"""How commands find worker.toml and what it leads to."""

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from hexa_worker.errors import ConfigError

if TYPE_CHECKING:
    from hexa_worker.config.model import Config
    from hexa_worker.drivers.base import Driver, SubscriptionSpec

DEFAULT_FILE = "worker.toml"
CONFIG_VARIABLE = "HEXA_WORKER_CONFIG"
"""Names worker.toml (or its folder) where neither the option nor an argument does."""
T = TypeVar("T")

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    metavar="FILE",
    help=f"The worker.toml, instead of the first argument and ${CONFIG_VARIABLE}.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def find_config(config_path: str | None, arguments: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """Which worker.toml is meant, and the arguments without it: the option's, an argument's, the environment's, ours.

    Args:
        config_path: what ``--config`` said.
        arguments: the positional ones; a first one that ends in ``.toml`` is the file (or a folder that has one).

    Raises:
        ConfigError: there is none.
    """
    if config_path is not None:
        return _existing(Path(config_path)), arguments
    if arguments and (arguments[0].endswith(".toml") or (Path(arguments[0]) / DEFAULT_FILE).is_file()):
        return _existing(Path(arguments[0])), arguments[1:]
    if named := os.environ.get(CONFIG_VARIABLE):
        return _existing(Path(named), f"{CONFIG_VARIABLE}: "), arguments
    if not Path(DEFAULT_FILE).is_file():
        hint = (
            f"name it as the first argument or in {CONFIG_VARIABLE}, go to its folder, "
            "or make a project with `hexa-worker init`"
        )
        raise ConfigError(f"there is no {DEFAULT_FILE} in {Path.cwd()}", hint=hint)
    return Path(DEFAULT_FILE).resolve(), arguments


def only_config(config_path: str | None, arguments: tuple[str, ...]) -> Path:
    """As `find_config`, for commands that take no other argument."""
    if config_path is None and len(arguments) == 1 and not Path(arguments[0]).is_dir():
        return _existing(Path(arguments[0]))
    path, rest = find_config(config_path, arguments)
    if rest:
        raise click.UsageError(f"unexpected argument {rest[0]!r}", click.get_current_context())
    return path


def _existing(path: Path, said_by: str = "") -> Path:
    path = path / DEFAULT_FILE if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"{said_by}there is no file {path}")
    return path.resolve()


class Project(NamedTuple):
    """An open project.

    Attributes:
        config: its configuration.
        specs: what its handlers subscribe to, disabled subscriptions among it.
        driver: its broker.
        off: which of them do not run, and why.
    """

    config: "Config"
    specs: "tuple[SubscriptionSpec, ...]"
    driver: "Driver"
    off: "Mapping[str, str]"


@asynccontextmanager
async def open_project(path: Path, *, declare: bool = True) -> AsyncIterator[Project]:
    """Load worker.toml and its handlers, and open its broker.

    Args:
        path: the file.
        declare: make what the subscriptions that run need; otherwise nothing at the broker is changed.
    """
    from hexa_worker.config.load import load_config  # noqa: PLC0415 - lazy by design
    from hexa_worker.drivers.opening import declare as declare_all  # noqa: PLC0415 - lazy by design
    from hexa_worker.drivers.opening import make_driver, off_specs, opened, specs  # noqa: PLC0415 - lazy by design
    from hexa_worker.subscriptions.loader import load_plans  # noqa: PLC0415 - lazy by design

    config = load_config(path)
    loaded = load_plans(config)
    declared = specs(loaded)
    async with opened(make_driver(config)) as driver:
        if declare:
            await declare_all(driver, declared)
        off = {one.plan.action: one.reason for one in loaded.off}
        yield Project(config, tuple(sorted((*declared, *off_specs(loaded)), key=lambda one: one.action)), driver, off)


def run_async(function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
    """Run `function` in an event loop of its own."""
    import anyio  # noqa: PLC0415 - lazy by design

    return anyio.run(function, *arguments)
