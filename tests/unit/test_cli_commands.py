"""Commands are loaded when they are used: each table of them names modules that are there."""

from collections.abc import Iterator

import click

from hexa_worker.cli.group import root
from hexa_worker.cli.subcommands import Subcommands


def loaded(group: Subcommands, *path: str) -> Iterator[tuple[str, ...]]:
    """Load all commands of a group, and of the groups in it; their words."""
    for name in group.list_commands(click.Context(group)):
        yield (*path, name)
        command = group.get_command(click.Context(group), name)
        if isinstance(command, Subcommands):
            yield from loaded(command, *path, name)


def test_every_command_can_be_loaded() -> None:
    assert ("dlq", "import") in list(loaded(root))
