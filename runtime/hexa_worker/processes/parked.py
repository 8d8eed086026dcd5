"""What is parked, in files: each process says what it has, and is told in another file what to do about it.

Nothing is written while nothing is parked. A command file is done by its process within a second, and gone then.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import anyio
import msgspec

from hexa_worker.actors.settler import Settler
from hexa_worker.actors.supervisor import Supervisor
from hexa_worker.config.load import load_config
from hexa_worker.core.lineage import lineage_of
from hexa_worker.core.settlement import RetryAt
from hexa_worker.errors import ConfigError
from hexa_worker.processes.private import private_folder

SHOWN_AT_MOST: Final = 1_000
LOOK_S: Final = 0.5
Told = Literal["retry", "drop"]

log = logging.getLogger("hexa_worker.processes")


class ParkedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One parked delivery.

    Attributes:
        id: its message id, which names it in commands.
        action: the subscription.
        event_id: the event.
        channel: where it was read from.
        size: bytes of its payload.
        refused: what the broker refuses: ``retry`` or ``dead letter``.
        reason: what it says.
    """

    id: str
    action: str
    event_id: str
    channel: str
    size: int
    refused: str
    reason: str


class ParkedState(msgspec.Struct, frozen=True, kw_only=True):
    """What one process has parked.

    Attributes:
        pid: the process.
        count: how many, by action.
        entries: the first of them.
    """

    pid: int
    count: dict[str, int]
    entries: list[ParkedEntry]


class ParkedCommand(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told; without `ids` it means all that it has, without `action` those of each."""

    do: Told
    ids: list[str] | None = None
    action: str | None = None


def folder_of(state_dir: Path | str, name: str) -> Path:
    """Where the files of the worker called `name` are."""
    return Path(state_dir) / f"{name}.parked"


def of_config(path: Path) -> Path:
    """The folder of the worker of a worker.toml."""
    config = load_config(path)
    return folder_of(config.folder / config.file.worker.state_dir, config.file.worker.name)


def counts(folder: Path) -> dict[str, int]:
    """How many are parked, by action."""
    found: dict[str, int] = {}
    for _, state in states(folder):
        for action, count in state.count.items():
            found[action] = found.get(action, 0) + count
    return found


def states(folder: Path) -> Iterator[tuple[Path, ParkedState]]:
    """What the processes that live have parked, and the command file of each."""
    for path in sorted(folder.glob("slot-*.json")):
        with suppress(OSError, msgspec.MsgspecError):
            state = msgspec.json.decode(path.read_bytes(), type=ParkedState)
            if lives(state.pid):
                yield path.with_suffix(".do"), state


def lives(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def write(path: Path, value: msgspec.Struct) -> None:
    """Put a file in place, whole. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(value))
    draft.replace(path)


class ParkedFiles:
    """The files of one process.

    Args:
        folder: see `folder_of`.
        slot: its slot.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        self._path = folder / f"slot-{slot}.json"
        self._command = folder / f"slot-{slot}.do"
        self._said: ParkedState | None = None
        self._warned = False

    async def run(self, supervisor: Supervisor) -> None:
        """Tell and obey, for ever. Cancellation: safe."""
        self._clear()  # what an earlier process of this slot has left
        try:
            while True:
                await anyio.sleep(LOOK_S)
                known = [(one.plan.action, one.worker.settler) for one in supervisor.subscriptions if one.worker]
                with suppress(OSError, msgspec.MsgspecError):
                    self._obey(known)
                    self._tell(_state_of(known))
        finally:
            self._clear()

    def _clear(self) -> None:
        """Nothing is parked. A command that came too late must not meet what is parked some other day."""
        self._said = None
        for path in (self._path, self._command):
            with suppress(OSError):
                path.unlink()

    def _tell(self, state: ParkedState) -> None:
        if not state.count and self._said is None:
            return
        if state == self._said:
            return
        if state.count:
            if self._is_private():  # or anybody could tell this process to drop events
                write(self._path, state)
                self._said = state
        else:
            self._clear()

    def _is_private(self) -> bool:
        try:
            private_folder(self._path.parent)
        except ConfigError as error:
            if not self._warned:
                self._warned = True
                log.error("what is parked is not listed: %s", error)  # noqa: TRY400 - it says all there is to say
            return False
        return True

    def _obey(self, settlers: Sequence[tuple[str, Settler]]) -> None:
        if self._said is None or not self._command.exists():
            return
        try:
            command = msgspec.json.decode(self._command.read_bytes(), type=ParkedCommand)
            for action, settler in settlers:
                if command.action not in (None, action):
                    continue
                do: Callable[[list[str] | None], int]
                do = settler.try_parked if command.do == "retry" else settler.drop_parked
                do(command.ids)
        finally:
            self._command.unlink()


def _state_of(settlers: Sequence[tuple[str, Settler]]) -> ParkedState:
    count: dict[str, int] = {}
    entries: list[ParkedEntry] = []
    for action, settler in settlers:
        parked = settler.parked
        if parked:
            count[action] = len(parked)
        for one in parked[: SHOWN_AT_MOST - len(entries)]:
            delivery = one.delivery
            entries.append(
                ParkedEntry(
                    id=delivery.message_id,
                    action=action,
                    event_id=lineage_of(delivery).event_id,
                    channel=delivery.channel,
                    size=len(delivery.payload),
                    refused="retry" if isinstance(one.settlement, RetryAt) else "dead letter",
                    reason=one.reason,
                )
            )
    return ParkedState(pid=os.getpid(), count=count, entries=entries)
