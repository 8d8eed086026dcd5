"""Opening a project for its dead letters."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hexa_worker.cli.project import Project, open_project
from hexa_worker.errors import ConfigError


@asynccontextmanager
async def open_dead_letters(path: Path, action: str | None) -> AsyncIterator[Project]:
    """An open project that has the subscription `action`.

    Raises:
        ConfigError: it has not.
    """
    async with open_project(path) as project:
        actions = [spec.action for spec in project.specs]
        if action is not None and action not in actions:
            raise ConfigError(f"there is no action {action!r}", hint=f"one of {', '.join(sorted(actions))}")
        yield project
