"""Warnings of what no subscription of the worker reads any more: retries, dead letters, groups of the embedded file."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from hexa_worker.cli.terminal import note
from hexa_worker.errors import ConfigError

if TYPE_CHECKING:
    from hexa_worker.config.model import Config
    from hexa_worker.drivers.base import SubscriptionSpec
    from hexa_worker.drivers.embedded import EmbeddedDriver
    from hexa_worker.drivers.embedded.forgetting import Group


def warn_of_orphans(config: "Config", specs: "Iterable[SubscriptionSpec]") -> None:
    from hexa_worker.processes.ladders import file_of, orphans  # noqa: PLC0415 - lazy by design

    worker = config.file.worker
    for text in orphans(file_of(config.folder / worker.state_dir, worker.name), specs):
        note(f"warning: {text}")


@asynccontextmanager
async def embedded_of(config: "Config") -> "AsyncIterator[EmbeddedDriver]":
    """The embedded broker of a project, open. Raises ConfigError: it has another one."""
    from hexa_worker.config.model import Embedded  # noqa: PLC0415 - lazy by design
    from hexa_worker.drivers.embedded import EmbeddedDriver  # noqa: PLC0415 - lazy by design

    broker = config.file.broker
    if not isinstance(broker, Embedded):
        raise ConfigError("this is for the embedded broker: elsewhere remove groups with the broker's own tools")
    driver = EmbeddedDriver(config.folder / broker.path, broker)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def other_groups(config: "Config", specs: "Iterable[SubscriptionSpec]") -> "Sequence[Group]":
    """The groups of the embedded file that none of `specs` has. Raises as `embedded_of`."""
    present = {spec.group for spec in specs}
    async with embedded_of(config) as driver:
        return [group for group in await driver.groups() if group.name not in present]


async def warn_of_groups(config: "Config", specs: "Iterable[SubscriptionSpec]") -> None:
    """Say on standard error for which other groups the embedded file keeps events; elsewhere nothing."""
    if config.file.broker.__struct_config__.tag != "embedded":
        return
    for group in await other_groups(config, specs):
        if group.unread:
            note(
                f"warning: the file keeps {group.unread:,} events for group {group.name!r}, which no subscription here "
                f"has: if none elsewhere has it, drop them with `hexa-worker forget {group.name}`"
            )
