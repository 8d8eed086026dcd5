"""What an operator has changed about a running worker. Pure: the parent keeps it, every process does it."""

from collections.abc import Mapping
from typing import Literal

import msgspec

LogLevel = Literal["debug", "info", "warning", "error"]
MAX_KEYS = 1_000
"""So many keys of one subscription may be paused."""
MAX_KEY_BYTES = 1_024
MAX_PAUSED_BYTES = 65_536
"""All keys together: they go to each process in one piece, also before it reads."""


class Pause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What of one subscription is paused.

    Attributes:
        whole: all of it: nothing is received.
        keys: the events with these keys; they are received, and kept until they may go on.
    """

    whole: bool = False
    keys: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        return self.whole or bool(self.keys)


NOT_PAUSED = Pause()


class Controls(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a worker's processes are to run, beyond worker.toml.

    Attributes:
        revision: rises with each change.
        paused: by action; nothing else is.
        log_level: instead of worker.toml's.
        resumed: by action the revision that resumed it: what is held there because its retries are used up runs again.
        concurrency: by action, how many handler calls may run at once in one process, instead of worker.toml's.
    """

    revision: int = 0
    paused: Mapping[str, Pause] = {}
    log_level: LogLevel | None = None
    resumed: Mapping[str, int] = {}
    concurrency: Mapping[str, int] = {}

    def pause_of(self, action: str) -> Pause:
        """What is paused of one subscription."""
        return self.paused.get(action, NOT_PAUSED)

    def with_pause(self, action: str, key: bytes | None) -> "Controls":
        """The same with a subscription paused, or with one of its keys.

        Raises:
            ValueError: that is too much to keep.
        """
        pause = self.pause_of(action)
        if key is None:
            return self._with(action, msgspec.structs.replace(pause, whole=True))
        if len(key) > MAX_KEY_BYTES:
            raise ValueError(f"a key of {len(key):,} bytes is over the limit of {MAX_KEY_BYTES:,}")
        if len(pause.keys | {key}) > MAX_KEYS:
            raise ValueError(f"{MAX_KEYS:,} keys of {action} are paused, more cannot be: pause the whole subscription")
        if key not in pause.keys and self._paused_bytes() + len(key) > MAX_PAUSED_BYTES:
            raise ValueError(f"the keys that are paused have {MAX_PAUSED_BYTES:,} bytes: pause a whole subscription")
        return self._with(action, msgspec.structs.replace(pause, keys=pause.keys | {key}))

    def _paused_bytes(self) -> int:
        return sum(len(key) for pause in self.paused.values() for key in pause.keys)

    def without_pause(self, action: str, key: bytes | None) -> "Controls":
        """The same with a subscription resumed, all its keys too, or with one key of it."""
        pause = self.pause_of(action)
        if key is not None:
            return self._with(action, msgspec.structs.replace(pause, keys=pause.keys - {key}))
        controls = self._with(action, NOT_PAUSED)
        return msgspec.structs.replace(controls, resumed={**self.resumed, action: controls.revision})

    def with_concurrency(self, action: str, count: int) -> "Controls":
        """The same with another concurrency of one subscription."""
        concurrency = {**self.concurrency, action: count}
        return msgspec.structs.replace(self, revision=self.revision + 1, concurrency=concurrency)

    def with_log_level(self, level: LogLevel) -> "Controls":
        return msgspec.structs.replace(self, revision=self.revision + 1, log_level=level)

    def _with(self, action: str, pause: Pause) -> "Controls":
        others = {name: one for name, one in self.paused.items() if name != action}
        paused = {**others, action: pause} if pause else others
        return msgspec.structs.replace(self, revision=self.revision + 1, paused=paused)


AS_CONFIGURED = Controls()
