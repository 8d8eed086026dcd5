"""Which retry channels and dead letters the subscriptions of a worker have had: what is read by none of them any more.

A broker cannot tell whose they are, and is shared with others; the worker notes its own in its state_dir.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from hexa_worker.core.channels import dead_letter_channel, retry_prefix
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.processes.parked import write


class Ladders(msgspec.Struct, frozen=True, kw_only=True):
    """Actions by the name that their retry channels and dead letter are named after."""

    actions: dict[str, str] = {}


def file_of(state_dir: Path | str, name: str) -> Path:
    return Path(state_dir) / f"{name}.ladders"


def read(path: Path) -> Ladders:
    """What is noted; nothing where nothing can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ladders)
    except (OSError, msgspec.MsgspecError):
        return Ladders()


def remember(path: Path, specs: Iterable[SubscriptionSpec]) -> None:
    """Note those of `specs` too; a folder that cannot be written is said by others."""
    known = read(path)
    actions = known.actions | {spec.retry_base: spec.action for spec in specs}
    if actions != known.actions:
        with suppress(OSError):
            write(path, Ladders(actions=actions))


def orphans(path: Path, specs: Iterable[SubscriptionSpec]) -> list[str]:
    """One sentence for each that none of `specs` reads."""
    present = {spec.retry_base for spec in specs}
    return [
        f"nobody reads the retries and dead letters of {action!r} any more "
        f"({retry_prefix(base)}N, {dead_letter_channel(base)}): "
        f'name the subscription so again, or give the one that shall have them retry_channel = "{base}"; '
        f"if they are of no use, delete {path}"
        for base, action in read(path).actions.items()
        if base not in present
    ]
