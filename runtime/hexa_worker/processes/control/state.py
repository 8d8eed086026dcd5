"""What the control socket changes and a restart keeps: what is paused, and what was asked before, in one file."""

import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from hexa_worker.core.controls import Pause
from hexa_worker.errors import ConfigError
from hexa_worker.processes.private import open_private

KEPT: Final = 100
"""So many requests are remembered."""
FORMAT: Final = 1


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request.

    Attributes:
        number: rises by one.
        at: when it was accepted, ISO 8601.
        by: who has asked.
        request: what, for people.
        state: ``accepted`` until it is ``done`` or has ``failed``.
        message: what became of it.
        ended_at: when.
    """

    number: int
    at: str
    by: str
    request: str
    state: Literal["accepted", "done", "failed"] = "accepted"
    message: str = ""
    ended_at: str = ""


class ControlState(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the file.

    Attributes:
        format: of the file.
        number: of the latest request.
        paused: by action.
        history: the latest requests, the oldest first.
    """

    format: int = FORMAT
    number: int = 0
    paused: Mapping[str, Pause] = {}
    history: tuple[HistoryEntry, ...] = ()


def read_state(path: Path) -> ControlState:
    """What is kept; nothing where there is no file.

    Raises:
        ConfigError: it cannot be read. Going on would resume what somebody has paused.
    """
    try:
        state = msgspec.json.decode(path.read_bytes(), type=ControlState)
    except FileNotFoundError:
        return ControlState()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    if state.format != FORMAT:
        raise _unreadable(path, f"its format is {state.format}, this release reads {FORMAT}")
    return state


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"what is paused cannot be read: {why}",
        where=str(path),
        hint="mend it, or remove it to start with nothing paused",
    )


def write_state(path: Path, state: ControlState) -> None:
    """Put the file in place, whole and durable. Raises OSError."""
    draft = path.with_name(f"{path.name}.new")
    descriptor = open_private(draft, os.O_WRONLY | os.O_TRUNC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(state)))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class History:
    """The latest requests.

    Args:
        number: of the latest one before.
        entries: what was kept.
    """

    def __init__(self, number: int, entries: tuple[HistoryEntry, ...]) -> None:
        self.number = number
        self._entries = deque(entries, KEPT)

    def begin(self, *, at: str, by: str, request: str) -> HistoryEntry:
        """A request was accepted."""
        self.number += 1
        entry = HistoryEntry(number=self.number, at=at, by=by, request=request)
        self._entries.append(entry)
        return entry

    def end(self, number: int, *, at: str, ok: bool, message: str) -> None:
        """It is over."""
        for place, one in enumerate(self._entries):
            if one.number == number:
                state: Literal["done", "failed"] = "done" if ok else "failed"
                self._entries[place] = msgspec.structs.replace(one, state=state, message=message, ended_at=at)

    def entries(self) -> tuple[HistoryEntry, ...]:
        """The oldest first."""
        return tuple(self._entries)
