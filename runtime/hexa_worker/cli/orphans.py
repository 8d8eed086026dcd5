"""Warnings of retries and dead letters that no subscription of the worker reads any more."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hexa_worker.cli.terminal import note

if TYPE_CHECKING:
    from hexa_worker.config.model import Config
    from hexa_worker.drivers.base import SubscriptionSpec


def warn_of_orphans(config: "Config", specs: "Iterable[SubscriptionSpec]") -> None:
    """Say it on standard error."""
    from hexa_worker.processes.ladders import file_of, orphans  # noqa: PLC0415 - lazy by design

    worker = config.file.worker
    for text in orphans(file_of(config.folder / worker.state_dir, worker.name), specs):
        note(f"warning: {text}")
